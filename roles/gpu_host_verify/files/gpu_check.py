# SPDX-License-Identifier: MIT
"""Says what this process has of the GPUs, as a Python literal in one line. Made to run in a container.

python gpu_check.py look      device nodes, and the GPUs that NVML and CUDA show
python gpu_check.py compute   the same, and a kernel on each device of CUDA

Needs no package and no compiler: ctypes over the driver's own libraries, and the kernel as PTX text,
which the driver compiles. For Python 2.7, and 3.5 and newer: what the hosts have.

{"nodes": [PATH], "nvml": {"error", "gpus": [{"uuid", "mig": [UUID]}]},
 "cuda": {"error", "version", "devices": [{"name", "uuid", "error", "busy"}]}}
An error is text or None; that of a device is None where its arithmetic was right. busy: its error
is that a job of somebody else has the device, or its memory, for itself.
"""

import ctypes
import os
import sys

# For every GPU since Kepler: the driver compiles it for the one that is there.
PTX = """
.version 3.2
.target sm_30
.address_size 64

.visible .entry multiply_and_add(.param .u64 numbers, .param .u32 count, .param .u32 factor)
{
    .reg .pred %beyond;
    .reg .b32 %block, %width, %thread, %place, %count, %factor, %number;
    .reg .b64 %base, %offset, %address;

    ld.param.u64 %base, [numbers];
    ld.param.u32 %count, [count];
    ld.param.u32 %factor, [factor];
    mov.u32 %block, %ctaid.x;
    mov.u32 %width, %ntid.x;
    mov.u32 %thread, %tid.x;
    mad.lo.u32 %place, %block, %width, %thread;
    setp.ge.u32 %beyond, %place, %count;
    @%beyond bra END;
    cvta.to.global.u64 %base, %base;
    mul.wide.u32 %offset, %place, 4;
    add.u64 %address, %base, %offset;
    ld.global.u32 %number, [%address];
    mad.lo.u32 %number, %number, %factor, %place;
    st.global.u32 [%address], %number;
END:
    ret;
}
"""
COUNT = 16384
WIDTH = 256
FACTOR = 40503

# Source: CUresult and CUdevice_attribute in cuda.h, nvmlReturn_t in nvml.h.
CUDA_ERROR_OUT_OF_MEMORY = 2
CUDA_ERROR_DEVICE_UNAVAILABLE = 46
NVML_ERROR_NO_PERMISSION = 4
NVML_DEVICE_MIG_ENABLE = 1

try:
    ASCII = ascii
except NameError:  # Python 2, whose repr is that
    ASCII = repr


class DriverError(Exception):
    """A call of the driver's library failed; the message says which, and why."""

    def __init__(self, call, why, status):
        Exception.__init__(self, "%s: %s" % (call, why))
        self.status = status


def library(name):
    """Return the library; raise DriverError where it cannot be loaded."""
    try:
        return ctypes.CDLL(name)
    except OSError as error:
        raise DriverError(name, str(error).replace(name + ": ", "", 1), None)


def called(lib, strerror, name, *arguments):
    """Call a function of a driver's library; raise DriverError where it does not succeed."""
    try:
        function = getattr(lib, name)
    except AttributeError:
        raise DriverError(name, "the driver's library does not have it", None)
    status = function(*arguments)
    if status:
        raise DriverError(name, strerror(lib, status), status)


def cuda_strerror(lib, status):
    """Return what CUDA calls a CUresult."""
    text = ctypes.c_char_p()
    if lib.cuGetErrorName(status, ctypes.byref(text)) or not text.value:
        return "CUresult %d" % status
    return text.value.decode("ascii")


def nvml_strerror(lib, status):
    """Return what NVML calls an nvmlReturn_t."""
    lib.nvmlErrorString.restype = ctypes.c_char_p
    return lib.nvmlErrorString(status).decode("ascii", "replace")


def nvml():
    """Return what NVML shows: the UUIDs of GPUs, and of their MIG devices."""
    gpus = []
    try:
        lib = library("libnvidia-ml.so.1")
        called(lib, nvml_strerror, "nvmlInit_v2")
        count = ctypes.c_uint()
        called(lib, nvml_strerror, "nvmlDeviceGetCount_v2", ctypes.byref(count))
        for index in range(count.value):
            handle = ctypes.c_void_p()
            try:
                called(lib, nvml_strerror, "nvmlDeviceGetHandleByIndex_v2", index, ctypes.byref(handle))
            except DriverError as error:
                if error.status == NVML_ERROR_NO_PERMISSION:
                    continue  # counted, yet not this container's
                raise
            gpus.append({"uuid": nvml_uuid(lib, handle), "mig": mig_devices(lib, handle)})
    except DriverError as error:
        return {"error": str(error), "gpus": gpus}
    return {"error": None, "gpus": gpus}


def nvml_uuid(lib, handle):
    """Return the UUID of a GPU or MIG device."""
    text = ctypes.create_string_buffer(96)
    called(lib, nvml_strerror, "nvmlDeviceGetUUID", handle, text, len(text))
    return text.value.decode("ascii")


def mig_devices(lib, handle):
    """Return the UUIDs of the MIG devices of a GPU; none where MIG is off, or unknown to the driver."""
    mode, pending, most = ctypes.c_uint(), ctypes.c_uint(), ctypes.c_uint()
    uuids = []
    try:
        called(lib, nvml_strerror, "nvmlDeviceGetMigMode", handle, ctypes.byref(mode), ctypes.byref(pending))
        if mode.value != NVML_DEVICE_MIG_ENABLE:
            return uuids
        called(lib, nvml_strerror, "nvmlDeviceGetMaxMigDeviceCount", handle, ctypes.byref(most))
    except DriverError:
        return uuids
    for index in range(most.value):
        device = ctypes.c_void_p()
        try:
            called(lib, nvml_strerror, "nvmlDeviceGetMigDeviceHandleByIndex", handle, index, ctypes.byref(device))
            uuids.append(nvml_uuid(lib, device))
        except DriverError:
            continue  # places are numbered, and not all are taken
    return uuids


def cuda(compute):
    """Return what CUDA shows, and whether each device computes right."""
    version, count, devices = ctypes.c_int(), ctypes.c_int(), []
    try:
        lib = library("libcuda.so.1")
        called(lib, cuda_strerror, "cuInit", 0)
        called(lib, cuda_strerror, "cuDriverGetVersion", ctypes.byref(version))
        called(lib, cuda_strerror, "cuDeviceGetCount", ctypes.byref(count))
        for index in range(count.value):
            devices.append(cuda_device(lib, index, compute))
    except DriverError as error:
        return {"error": str(error), "version": version.value, "devices": devices}
    return {"error": None, "version": version.value, "devices": devices}


def cuda_device(lib, index, compute):
    """Return the name and UUID of a device, and what went wrong with its arithmetic."""
    device, name, raw = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.create_string_buffer(16)
    called(lib, cuda_strerror, "cuDeviceGet", ctypes.byref(device), index)
    called(lib, cuda_strerror, "cuDeviceGetName", name, len(name), device)
    # The second one knows MIG devices; drivers before 470 have the first alone, those before 410 neither.
    uuid = None
    for function in ("cuDeviceGetUuid_v2", "cuDeviceGetUuid"):
        if hasattr(lib, function):
            called(lib, cuda_strerror, function, raw, device)
            digits = "".join("%02x" % byte for byte in bytearray(raw.raw))
            uuid = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
            break
    result = {"name": name.value.decode("utf-8", "replace"), "uuid": uuid, "error": None, "busy": False}
    if compute:
        try:
            result["error"] = wrong_arithmetic(lib, device)
        except DriverError as error:
            result["error"] = str(error)
            result["busy"] = error.status in (CUDA_ERROR_OUT_OF_MEMORY, CUDA_ERROR_DEVICE_UNAVAILABLE)
    return result


def wrong_arithmetic(lib, device):
    """Copy numbers to a device, have a kernel compute there, copy back; return what is wrong, or None."""

    def call(name, *arguments):
        called(lib, cuda_strerror, name, *arguments)

    context, module, kernel, memory = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_uint64()
    numbers = (ctypes.c_uint32 * COUNT)(*[place * 2654435761 % 2**32 for place in range(COUNT)])
    wanted = [(number * FACTOR + place) % 2**32 for place, number in enumerate(numbers)]
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    try:
        call("cuCtxSetCurrent", context)
        call("cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(PTX.encode("ascii")))
        call("cuModuleGetFunction", ctypes.byref(kernel), module, ctypes.c_char_p(b"multiply_and_add"))
        call("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(ctypes.sizeof(numbers)))
        call("cuMemcpyHtoD_v2", memory, numbers, ctypes.c_size_t(ctypes.sizeof(numbers)))
        count, factor = ctypes.c_uint32(COUNT), ctypes.c_uint32(FACTOR)
        arguments = (ctypes.c_void_p * 3)(
            *[ctypes.cast(ctypes.pointer(one), ctypes.c_void_p) for one in (memory, count, factor)]
        )
        grid = (-(-COUNT // WIDTH), 1, 1, WIDTH, 1, 1)
        call("cuLaunchKernel", kernel, *(grid + (0, None, arguments, None)))
        call("cuCtxSynchronize")
        call("cuMemcpyDtoH_v2", numbers, memory, ctypes.c_size_t(ctypes.sizeof(numbers)))
        call("cuMemFree_v2", memory)
    finally:
        lib.cuDevicePrimaryCtxRelease(device)
    wrong = [place for place in range(COUNT) if numbers[place] != wanted[place]]
    if not wrong:
        return None
    first = wrong[0]
    return "%d of %d results are wrong; the first, at %d, is %d instead of %d" % (
        len(wrong), COUNT, first, numbers[first], wanted[first]
    )  # fmt: skip


def main(mode):
    """Print what this process has of the GPUs."""
    report = {
        "nodes": sorted("/dev/" + name for name in os.listdir("/dev") if name[:6] == "nvidia" and name[6:7].isdigit()),
        "nvml": nvml(),
        "cuda": cuda(mode == "compute"),
    }
    # To import json takes a container longer than Python's start.
    print(ASCII(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
