/* Stands in for two programs of NVIDIA's in the lab, by the name that it is called by:
 *
 * nvidia-container-runtime, a shim over runc. A container whose NVIDIA_VISIBLE_DEVICES asks for GPUs gets the
 * stand-ins: device nodes, nvidia-smi, libcuda and libnvidia-ml; every other container is runc's alone. On a host
 * without a stand-in GPU it fails as the real one does without a driver. In the mode "legacy" it leaves the giving
 * to the hook.
 *
 * nvidia-container-runtime-hook, which the runtime calls for in the mode "legacy", and dockerd for --gpus. It gives
 * the devices as NVIDIA's does: mounted, and allowed in the container's cgroup without systemd's knowledge.
 *
 * Statically linked: the host needs no Python. */
#define _GNU_SOURCE
#include <ctype.h>
#include <fcntl.h>
#include <libgen.h>
#include <linux/bpf.h>
#include <sched.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include "gpu.h"

#define LIBRARIES "/usr/lib/x86_64-linux-gnu/"
#define CONFIG "/etc/nvidia-container-runtime/config.toml"
#define HOOK "nvidia-container-runtime-hook"

/* What of the driver a container gets beside the nodes. */
static const char *const FILES[] = {"/usr/bin/nvidia-smi", LIBRARIES "libcuda.so.1", LIBRARIES "libnvidia-ml.so.1",
                                    FAULTS, NULL};
static const char *log_path;

/* Ends with a message: on standard error, and in the log, where the daemon reads it from. */
static void fail(const char *format, ...) {
    char message[1024];
    va_list arguments;
    FILE *log;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    fprintf(stderr, "%s\n", message);
    if (log_path && (log = fopen(log_path, "a"))) {
        fprintf(log, "{\"level\":\"error\",\"msg\":\"%s\",\"time\":\"1970-01-01T00:00:00Z\"}\n",
                message);
        fclose(log);
    }
    exit(1);
}

static char *blank(char *at) {
    while (isspace((unsigned char)*at))
        at++;
    return at;
}

/* The end of the string that begins at the quote under at. */
static char *after_string(char *at) {
    for (at++; *at && *at != '"'; at++)
        if (*at == '\\' && at[1])
            at++;
    return *at ? at + 1 : at;
}

/* The end of the value that begins at at. */
static char *after_value(char *at) {
    int depth = 0;
    do {
        at = blank(at);
        if (!*at)
            fail("config.json ends too early");
        if (*at == '"') {
            at = after_string(at);
        } else if (*at == '{' || *at == '[') {
            depth++;
            at++;
        } else if (*at == '}' || *at == ']') {
            depth--;
            at++;
        } else if (*at == ',' || *at == ':') {
            at++;
        } else {
            at += strcspn(at, ",:]}\"{[ \t\r\n");
        }
    } while (depth > 0);
    return at;
}

/* The value of a key of the object that begins at object; NULL where it has none. */
static char *member(char *object, const char *key) {
    size_t length = strlen(key);
    char *at;
    if (!object || *object != '{')
        return NULL;
    for (at = blank(object + 1); *at == '"';) {
        char *name = at + 1, *end = after_string(at), *value = blank(end);
        if (*value != ':')
            fail("config.json is not JSON");
        value = blank(value + 1);
        if ((size_t)(end - name - 1) == length && !strncmp(name, key, length))
            return value;
        at = blank(after_value(value));
        if (*at == ',')
            at = blank(at + 1);
    }
    return NULL;
}

/* The text with an element appended to the array under key in the object at the end of path. */
static char *append(char *text, const char *const *path, const char *key, const char *element) {
    char *object = blank(text), *array, *at, *result;
    const char *before = "", *after = "";
    size_t room = strlen(text) + strlen(key) + strlen(element) + 16;
    char addition[2048];
    for (; *path; path++)
        object = member(object, *path);
    if (!object || *object != '{')
        fail("config.json has no place for %s", key);
    array = member(object, key);
    if (array && *array == '[') {
        at = after_value(array) - 1;
        before = *blank(array + 1) == ']' ? "" : ",";
        snprintf(addition, sizeof addition, "%s%s", before, element);
    } else if (!array) {
        at = object + 1;
        after = *blank(at) == '}' ? "" : ",";
        snprintf(addition, sizeof addition, "\"%s\":[%s]%s", key, element, after);
    } else {
        fail("config.json: %s is no list", key);
        return NULL;
    }
    result = malloc(room);
    if (!result)
        fail("out of memory");
    snprintf(result, room, "%.*s%s%s", (int)(at - text), text, addition, at);
    free(text);
    return result;
}

static char *contents(const char *path) {
    FILE *file = fopen(path, "r");
    char *text;
    long size;
    if (!file)
        fail("nvidia-container-runtime (stand-in): cannot read %s", path);
    fseek(file, 0, SEEK_END);
    size = ftell(file);
    rewind(file);
    text = calloc(1, (size_t)size + 1);
    if (!text || fread(text, 1, (size_t)size, file) != (size_t)size)
        fail("nvidia-container-runtime (stand-in): cannot read %s", path);
    fclose(file);
    return text;
}

/* The GPUs that a container asks for, one bit each; ends with an error where one is not there. */
static unsigned asked_gpus(char *text) {
    static const char name[] = "\"NVIDIA_VISIBLE_DEVICES=";
    char *list = member(member(blank(text), "process"), "env"), *at, *asked = NULL, wanted[512], *one;
    char uuid[64], number[16];
    unsigned gpus = 0, matched;
    int index;
    if (list && *list == '[')
        for (at = blank(list + 1); *at == '"';) {
            char *end = after_string(at);
            if (!strncmp(at, name, sizeof name - 1))
                asked = at + sizeof name - 1; /* the last one counts, as in a process */
            at = blank(end);
            if (*at == ',')
                at = blank(at + 1);
        }
    if (gpu_fault("leaks"))
        snprintf(wanted, sizeof wanted, "all");
    else if (asked)
        snprintf(wanted, sizeof wanted, "%.*s", (int)strcspn(asked, "\""), asked);
    else
        return 0;
    if (!*wanted || !strcmp(wanted, "void") || !strcmp(wanted, "none"))
        return 0;
    if (access(MARKER, F_OK) || !gpu_count())
        fail("nvidia-container-cli: initialization error: nvml error: driver not loaded");
    for (one = strtok(wanted, ","); one; one = strtok(NULL, ",")) {
        for (matched = 0, index = 0; index < MOST_GPUS; index++) {
            gpu_uuid(index, uuid, sizeof uuid);
            snprintf(number, sizeof number, "%d", index);
            if (gpu_there(index) && (!strcmp(one, "all") || !strcmp(one, number) || !strcmp(one, uuid)))
                matched |= 1u << index;
        }
        if (!matched)
            fail("nvidia-container-cli: device error: %s: unknown device", one);
        gpus |= matched;
    }
    if (gpu_fault("lost"))
        for (index = MOST_GPUS - 1; index >= 0; index--)
            if (gpus & (1u << index)) {
                gpus &= ~(1u << index);
                break;
            }
    return gpus;
}

static char *give_node(char *text, const char *path) {
    static const char *const os[] = {"linux", NULL}, *const resources[] = {"linux", "resources", NULL};
    char device[256], rule[256];
    struct stat node;
    if (stat(path, &node))
        fail("nvidia-container-runtime (stand-in): there is no %s", path);
    snprintf(device, sizeof device,
             "{\"path\":\"%s\",\"type\":\"c\",\"major\":%u,\"minor\":%u,\"fileMode\":438,\"uid\":0,\"gid\":0}",
             path, major(node.st_rdev), minor(node.st_rdev));
    snprintf(rule, sizeof rule, "{\"allow\":true,\"type\":\"c\",\"major\":%u,\"minor\":%u,\"access\":\"rwm\"}",
             major(node.st_rdev), minor(node.st_rdev));
    text = append(text, os, "devices", device);
    /* After the rules that are there: the first of them denies everything. */
    return append(text, resources, "devices", rule);
}

static char *give_file(char *text, const char *path) {
    static const char *const root[] = {NULL};
    char mount[512];
    if (access(path, F_OK))
        return text;
    snprintf(mount, sizeof mount,
             "{\"destination\":\"%s\",\"source\":\"%s\",\"type\":\"bind\","
             "\"options\":[\"bind\",\"ro\",\"nosuid\",\"nodev\"]}",
             path, path);
    return append(text, root, "mounts", mount);
}

/* Whether a line of the toolkit's configuration begins so. */
static int configured(const char *text) {
    char line[256];
    int found = 0;
    FILE *file = fopen(CONFIG, "r");
    while (file && !found && fgets(line, sizeof line, file))
        found = !strncmp(line, text, strlen(text));
    if (file)
        fclose(file);
    return found;
}

/* Has runc call the hook; dockerd has said so already where --gpus asks as well. */
static char *give_hook(char *text) {
    static const char *const hooks[] = {"hooks", NULL}, none[] = "\"hooks\":{},";
    char *object = blank(text), *result;
    if (strstr(text, HOOK))
        return text;
    if (!member(object, "hooks")) {
        result = malloc(strlen(text) + sizeof none);
        if (!result)
            fail("out of memory");
        sprintf(result, "{%s%s", none, object + 1);
        free(text);
        text = result;
    }
    return append(text, hooks, "prestart", "{\"path\":\"/usr/bin/" HOOK "\",\"args\":[\"" HOOK "\",\"prestart\"]}");
}

/* The path of a process's cgroup: in cgroup v1's devices hierarchy, or in v2, where controller is "". */
static int cgroup_of(const char *pid, const char *controller, char *path, size_t room) {
    char name[64], line[4096], *own;
    int found = 0;
    FILE *file;
    snprintf(name, sizeof name, "/proc/%s/cgroup", pid);
    file = fopen(name, "r");
    while (file && !found && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        own = strchr(line, ':') + 1;
        if (strncmp(own, controller, strlen(controller)) || own[strlen(controller)] != ':')
            continue;
        snprintf(path, room, "/sys/fs/cgroup/%s%s", controller, strchr(own, ':') + 1);
        found = access(path, F_OK) == 0;
    }
    if (file)
        fclose(file);
    return found;
}

/* Allows the GPUs' devices in the cgroup of a process; under v2 all devices, by taking the programs away. */
static void allow_gpus(const char *pid) {
    char path[4096], rules[4200];
    unsigned programs[64];
    union bpf_attr attribute;
    unsigned count;
    FILE *file;
    int cgroup;
    if (cgroup_of(pid, "devices", path, sizeof path)) {
        snprintf(rules, sizeof rules, "%s/devices.allow", path);
        file = fopen(rules, "w");
        if (!file || fputs("c 195:* rw", file) == EOF || fclose(file) == EOF)
            fail("nvidia-container-cli: mount error: cannot write %s", rules);
        return;
    }
    if (!cgroup_of(pid, "", path, sizeof path) || (cgroup = open(path, O_RDONLY | O_DIRECTORY)) < 0)
        fail("nvidia-container-cli: container error: process %s has no cgroup", pid);
    memset(&attribute, 0, sizeof attribute);
    attribute.query.target_fd = cgroup;
    attribute.query.attach_type = BPF_CGROUP_DEVICE;
    attribute.query.prog_ids = (unsigned long)programs;
    attribute.query.prog_cnt = sizeof programs / sizeof *programs;
    if (syscall(SYS_bpf, BPF_PROG_QUERY, &attribute, sizeof attribute))
        fail("nvidia-container-cli: container error: bpf_prog_query failed");
    for (count = attribute.query.prog_cnt; count--;) {
        memset(&attribute, 0, sizeof attribute);
        attribute.prog_id = programs[count];
        int program = syscall(SYS_bpf, BPF_PROG_GET_FD_BY_ID, &attribute, sizeof attribute);
        memset(&attribute, 0, sizeof attribute);
        attribute.target_fd = cgroup;
        attribute.attach_bpf_fd = program;
        attribute.attach_type = BPF_CGROUP_DEVICE;
        if (program < 0 || syscall(SYS_bpf, BPF_PROG_DETACH, &attribute, sizeof attribute))
            fail("nvidia-container-cli: container error: bpf_prog_detach failed");
    }
}

/* Writes what the container gets into its configuration. */
static void give_gpus(const char *bundle) {
    char path[4096], node[64], *text;
    unsigned gpus;
    int index;
    FILE *file;
    snprintf(path, sizeof path, "%s/config.json", bundle);
    text = contents(path);
    gpus = asked_gpus(text);
    if (!gpus)
        return;
    if (configured("mode = \"legacy\"")) {
        text = give_hook(text);
    } else {
        for (index = 0; index < MOST_GPUS; index++)
            if (gpus & (1u << index) && gpu_node(index, node, sizeof node))
                text = give_node(text, node);
        text = give_node(text, "/dev/nvidiactl");
        for (index = 0; FILES[index]; index++)
            text = give_file(text, FILES[index]);
    }
    file = fopen(path, "w");
    if (!file || fputs(text, file) == EOF || fclose(file) == EOF)
        fail("nvidia-container-runtime (stand-in): cannot write %s", path);
}

/* Mounts a file of the host at its own path under the root of a container. */
static void mount_file(const char *root, const char *path) {
    char target[8192], *at;
    int file;
    if (access(path, F_OK))
        return;
    snprintf(target, sizeof target, "%s%s", root, path);
    for (at = strchr(target + strlen(root) + 1, '/'); at; at = strchr(at + 1, '/')) {
        *at = 0;
        mkdir(target, 0755);
        *at = '/';
    }
    if ((file = open(target, O_CREAT | O_WRONLY | O_NONBLOCK | O_CLOEXEC, 0644)) >= 0)
        close(file);
    if (mount(path, target, NULL, MS_BIND, NULL))
        fail("nvidia-container-cli: mount error: %s", target);
}

/* The text of a JSON string, which ends where its quote was. */
static char *string(char *value) {
    if (!value || *value != '"')
        fail(HOOK " (stand-in): no such text");
    value[1 + strcspn(value + 1, "\"")] = 0;
    return value + 1;
}

/* The hook: of the container whose state is on standard input. */
static int prestart(void) {
    char state[8192], pid[32], path[4200], root[4200], node[64], *text, *value;
    const char *bundle, *given;
    size_t length = fread(state, 1, sizeof state - 1, stdin);
    unsigned gpus;
    int index, namespace;
    state[length] = 0;
    if (!(value = member(blank(state), "pid")))
        fail(HOOK " (stand-in): no state");
    snprintf(pid, sizeof pid, "%ld", strtol(value, NULL, 10));
    bundle = string(member(blank(state), "bundle"));
    snprintf(path, sizeof path, "%s/config.json", bundle);
    text = contents(path);
    gpus = asked_gpus(text);
    given = strstr(text, "\"/dev/nvidiactl\"");
    value = string(member(member(blank(text), "root"), "path"));
    snprintf(root, sizeof root, "%s%s%s", *value == '/' ? "" : bundle, *value == '/' ? "" : "/", value);
    /* The runtime gave it already; the real one takes the hook away then. */
    if (!gpus || given)
        return 0;
    if (configured("mode = \"cdi\"") && !configured("skip-mode-detection = true"))
        fail("invoking the NVIDIA Container Runtime Hook directly (e.g. specifying the docker --gpus flag) is not "
             "supported. Please use the NVIDIA Container Runtime (e.g. specify the --runtime=nvidia flag) instead");
    allow_gpus(pid);
    snprintf(path, sizeof path, "/proc/%s/ns/mnt", pid);
    if ((namespace = open(path, O_RDONLY | O_CLOEXEC)) < 0 || setns(namespace, CLONE_NEWNS))
        fail("nvidia-container-cli: namespace error: %s", path);
    for (index = 0; index < MOST_GPUS; index++)
        if (gpus & (1u << index) && gpu_node(index, node, sizeof node))
            mount_file(root, node);
    mount_file(root, "/dev/nvidiactl");
    for (index = 0; FILES[index]; index++)
        mount_file(root, FILES[index]);
    return 0;
}

int main(int count, char **words) {
    const char *bundle = ".";
    int creates = 0, place;
    if (!strcmp(basename(words[0]), HOOK))
        return count > 1 && !strcmp(words[1], "prestart") ? prestart() : 0;
    for (place = 1; place + 1 < count; place++)
        if (!strcmp(words[place], "--log"))
            log_path = words[place + 1];
    for (place = 1; place < count; place++) {
        if (!strcmp(words[place], "create") || !strcmp(words[place], "run"))
            creates = 1;
        else if ((!strcmp(words[place], "--bundle") || !strcmp(words[place], "-b")) && place + 1 < count)
            bundle = words[place + 1];
        else if (!strncmp(words[place], "--bundle=", 9))
            bundle = words[place] + 9;
    }
    if (creates)
        give_gpus(bundle);
    words[0] = "runc";
    execvp("runc", words);
    fail("nvidia-container-runtime (stand-in): runc is not there");
    return 1;
}
