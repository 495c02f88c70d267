/* Stands in for NVIDIA's nvidia-smi in the lab: it names a GPU that is not there.
 * Statically linked, so that it runs in every container. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int count, char **words) {
    if (access("/dev/nvidia0", F_OK)) {
        puts("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. (stand-in)");
        return 9;
    }
    if (count > 1 && (!strcmp(words[1], "-L") || !strcmp(words[1], "--list-gpus")))
        puts("GPU 0: STAND-IN (no GPU, gpuprov's lab) (UUID: GPU-5ca1ab1e-0000-0000-0000-000000000000)");
    else
        puts("STAND-IN for nvidia-smi of gpuprov's lab: one GPU that is not there; only -L says more");
    return 0;
}
