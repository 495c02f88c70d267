/* Stands in for NVIDIA's libcuda.so.1 in the lab: the functions that gpu_check.py calls, and no other.
 *
 * Memory of the "device" is the process's own, and a launch does on the spot what the one kernel of
 * gpu_check.py says: no PTX is compiled, and no GPU computes. Real are the names, the arguments and
 * the way by which the library gets into a container. */
#include <stdint.h>
#include <stdlib.h>

#include "gpu.h"

enum {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    DEVICE_UNAVAILABLE = 46,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_PTX = 218,
    NOT_FOUND = 500,
    UNKNOWN = 999
};

static int started, current = -1;

int cuGetErrorName(int status, const char **text) {
    switch (status) {
    case INVALID_VALUE: *text = "CUDA_ERROR_INVALID_VALUE"; break;
    case OUT_OF_MEMORY: *text = "CUDA_ERROR_OUT_OF_MEMORY"; break;
    case NOT_INITIALIZED: *text = "CUDA_ERROR_NOT_INITIALIZED"; break;
    case DEVICE_UNAVAILABLE: *text = "CUDA_ERROR_DEVICE_UNAVAILABLE"; break;
    case NO_DEVICE: *text = "CUDA_ERROR_NO_DEVICE"; break;
    case INVALID_DEVICE: *text = "CUDA_ERROR_INVALID_DEVICE"; break;
    case INVALID_PTX: *text = "CUDA_ERROR_INVALID_PTX"; break;
    case NOT_FOUND: *text = "CUDA_ERROR_NOT_FOUND"; break;
    case UNKNOWN: *text = "CUDA_ERROR_UNKNOWN"; break;
    default: return INVALID_VALUE;
    }
    return SUCCESS;
}

int cuInit(unsigned flags) {
    (void)flags;
    if (gpu_fault("cuinit"))
        return UNKNOWN;
    if (!gpu_count())
        return NO_DEVICE;
    started = 1;
    return SUCCESS;
}

int cuDriverGetVersion(int *version) {
    *version = 13000;
    return SUCCESS;
}

int cuDeviceGetCount(int *count) {
    *count = gpu_count();
    return started ? SUCCESS : NOT_INITIALIZED;
}

int cuDeviceGet(int *device, int index) {
    *device = gpu_number(index);
    return *device < 0 ? INVALID_DEVICE : SUCCESS;
}

int cuDeviceGetName(char *name, int room, int device) {
    (void)device;
    snprintf(name, (size_t)room, "%s", MODEL);
    return SUCCESS;
}

int cuDeviceGetUuid_v2(unsigned char *uuid, int device) {
    static const unsigned char start[4] = {0x5c, 0xa1, 0xab, 0x1e};
    memset(uuid, 0, 16);
    memcpy(uuid, start, sizeof start);
    uuid[15] = (unsigned char)gpu_last_byte(device);
    return SUCCESS;
}

int cuDevicePrimaryCtxRetain(void **context, int device) {
    if (gpu_fault("busy"))
        return DEVICE_UNAVAILABLE;
    current = device;
    *context = &current;
    return SUCCESS;
}

int cuDevicePrimaryCtxRelease(int device) {
    (void)device;
    current = -1;
    return SUCCESS;
}

int cuCtxSetCurrent(void *context) {
    return context == &current ? SUCCESS : INVALID_VALUE;
}

int cuCtxSynchronize(void) {
    return current < 0 ? INVALID_VALUE : SUCCESS;
}

int cuModuleLoadData(void **module, const char *text) {
    *module = (void *)(uintptr_t)text;
    return strstr(text, ".entry multiply_and_add(") ? SUCCESS : INVALID_PTX;
}

int cuModuleGetFunction(void **function, void *module, const char *name) {
    *function = module;
    return strcmp(name, "multiply_and_add") ? NOT_FOUND : SUCCESS;
}

int cuMemAlloc_v2(uint64_t *memory, size_t size) {
    *memory = (uintptr_t)malloc(size);
    return *memory ? SUCCESS : OUT_OF_MEMORY;
}

int cuMemFree_v2(uint64_t memory) {
    free((void *)(uintptr_t)memory);
    return SUCCESS;
}

int cuMemcpyHtoD_v2(uint64_t memory, const void *data, size_t size) {
    memcpy((void *)(uintptr_t)memory, data, size);
    return SUCCESS;
}

int cuMemcpyDtoH_v2(void *data, uint64_t memory, size_t size) {
    memcpy(data, (void *)(uintptr_t)memory, size);
    return SUCCESS;
}

int cuLaunchKernel(void *function, unsigned grid, unsigned grid_y, unsigned grid_z, unsigned block,
                   unsigned block_y, unsigned block_z, unsigned shared, void *stream, void **arguments,
                   void **extra) {
    uint32_t *numbers = (uint32_t *)(uintptr_t) * (uint64_t *)arguments[0];
    uint32_t count = *(uint32_t *)arguments[1], factor = *(uint32_t *)arguments[2], place;
    (void)function, (void)shared, (void)stream, (void)extra;
    if (grid_y != 1 || grid_z != 1 || block_y != 1 || block_z != 1)
        return INVALID_VALUE;
    for (place = 0; place < grid * block && place < count; place++)
        numbers[place] = numbers[place] * factor + place;
    if (gpu_fault("arithmetic"))
        numbers[count / 2] ^= 1;
    return SUCCESS;
}
