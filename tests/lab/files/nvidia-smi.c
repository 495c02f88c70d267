/* Stands in for NVIDIA's nvidia-smi in the lab: it names GPUs that are not there.
 * Statically linked, so that it runs in every container. */
#include "gpu.h"

/* The one query that it answers: probe.sh's. */
#define QUERY "pci.bus_id,uuid,persistence_mode,mig.mode.current,mig.mode.pending,name"

int main(int count, char **words) {
    char uuid[64];
    int index;
    if (!gpu_count()) {
        puts("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. (stand-in)");
        return 9;
    }
    if (count > 1 && (!strcmp(words[1], "-L") || !strcmp(words[1], "--list-gpus")))
        for (index = 0; gpu_number(index) >= 0; index++) {
            gpu_uuid(gpu_number(index), uuid, sizeof uuid);
            printf("GPU %d: " MODEL " (UUID: %s)\n", index, uuid);
        }
    else if (count > 1 && !strcmp(words[1], "--query-gpu=" QUERY))
        for (index = 0; gpu_number(index) >= 0; index++) {
            gpu_uuid(gpu_number(index), uuid, sizeof uuid);
            printf("00000000:%02X:00.0, %s, Enabled, [N/A], [N/A], " MODEL "\n", gpu_number(index) + 1, uuid);
        }
    else
        puts("STAND-IN for nvidia-smi of gpuprov's lab: GPUs that are not there; only -L and the probe's query say more");
    return 0;
}
