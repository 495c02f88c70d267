/* The stand-in GPUs of the lab, for the programs and libraries that pretend to drive them.
 *
 * There are as many as there are device nodes /dev/nvidia0 and on. A file of words makes them
 * behave as a broken host does, so that every check can be seen to fail:
 *   lost        the runtime gives a container every GPU but the last
 *   leaks       the runtime gives every GPU to a container that asks for none
 *   cuinit      cuInit fails
 *   arithmetic  one result of a kernel is wrong
 *   uuid        GPU 0 has another UUID, in containers
 *   busy        a context is refused: a job has the GPU for itself */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MARKER "/etc/gpuprov-lab/gpu"
#define FAULTS "/etc/gpuprov-lab/gpu-faults"
#define MODEL "STAND-IN (no GPU, gpuprov's lab)"
#define MOST_GPUS 16

static inline int gpu_node(int index, char *path, size_t room) {
    snprintf(path, room, "/dev/nvidia%d", index);
    return access(path, F_OK) == 0;
}

static inline int gpu_there(int index) {
    char path[64];
    return gpu_node(index, path, sizeof path);
}

static inline int gpu_fault(const char *word) {
    char line[64];
    int found = 0;
    FILE *file = fopen(FAULTS, "r");
    if (!file)
        return 0;
    while (!found && fgets(line, sizeof line, file)) {
        line[strcspn(line, " \n")] = 0;
        found = !strcmp(line, word);
    }
    fclose(file);
    return found;
}

/* The last byte of a GPU's UUID; in a container alone can it be another one. */
static inline int gpu_last_byte(int index) {
    return index == 0 && access(MARKER, F_OK) && gpu_fault("uuid") ? 0xff : index;
}

static inline void gpu_uuid(int index, char *text, size_t room) {
    snprintf(text, room, "GPU-5ca1ab1e-0000-0000-0000-0000000000%02x", gpu_last_byte(index));
}

/* The number of the device that a process sees as its index-th; -1 where it has fewer. */
static inline int gpu_number(int index) {
    int number;
    for (number = 0; number < MOST_GPUS; number++)
        if (gpu_there(number) && index-- == 0)
            return number;
    return -1;
}

static inline int gpu_count(void) {
    int count = 0;
    while (gpu_number(count) >= 0)
        count++;
    return count;
}
