/* Stands in for NVIDIA's libnvidia-ml.so.1 in the lab: the functions that gpu_check.py calls, and no other. */
#include <stdint.h>

#include "gpu.h"

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, DRIVER_NOT_LOADED = 9 };

const char *nvmlErrorString(int status) {
    switch (status) {
    case INVALID_ARGUMENT: return "Invalid Argument";
    case NOT_SUPPORTED: return "Not Supported";
    case DRIVER_NOT_LOADED: return "Driver Not Loaded";
    default: return "Unknown Error";
    }
}

int nvmlInit_v2(void) {
    return gpu_count() ? SUCCESS : DRIVER_NOT_LOADED;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = (unsigned)gpu_count();
    return SUCCESS;
}

/* A handle is the number of the device, and 1. */
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    int number = gpu_number((int)index);
    *handle = (void *)(intptr_t)(number + 1);
    return number < 0 ? INVALID_ARGUMENT : SUCCESS;
}

int nvmlDeviceGetUUID(void *handle, char *text, unsigned room) {
    gpu_uuid((int)(intptr_t)handle - 1, text, room);
    return SUCCESS;
}

int nvmlDeviceGetMigMode(void *handle, unsigned *current, unsigned *pending) {
    (void)handle, (void)current, (void)pending;
    return NOT_SUPPORTED;
}
