#!/usr/bin/env python3
"""Writes the uncompressed ELF kernel inside a Linux bzImage.

usage: extract-vmlinux.py BZIMAGE OUTPUT

The setup header says where the payload lies (boot protocol 2.08 and later, payload_offset and
payload_length at 0x248); its last four bytes are the unpacked size. gzip, xz, lzma and bzip2 are
unpacked by Python, zstd and lz4 by the programs of those names.
"""
import bz2
import lzma
import subprocess
import struct
import sys
import zlib


def program(*argv):
    def unpack(data):
        # The trailing size is not part of the stream: these tools print an error after good output.
        return subprocess.run(argv, input=data, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    return unpack


FORMATS = [
    (b"\x1f\x8b", lambda data: zlib.decompressobj(31).decompress(data)),
    (b"\xfd7zXZ\0", lambda data: lzma.LZMADecompressor().decompress(data)),
    (b"\x5d\0\0", lambda data: lzma.LZMADecompressor().decompress(data)),
    (b"BZh", lambda data: bz2.BZ2Decompressor().decompress(data)),
    (b"\x28\xb5\x2f\xfd", program("zstd", "-dcq")),
    (b"\x02\x21\x4c\x18", program("lz4", "-dcq")),
    (b"\x7fELF", lambda data: data),
]


def payload(image):
    if len(image) < 0x268 or image[0x202:0x206] != b"HdrS":
        raise ValueError("not a bzImage")
    if struct.unpack_from("<H", image, 0x206)[0] < 0x208:
        raise ValueError("boot protocol too old: no payload offset")
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = ((image[0x1f1] or 4) + 1) * 512 + offset
    if start + length > len(image):
        raise ValueError("the file is cut off")
    return image[start:start + length]


def extract(image):
    data = payload(image)
    size = struct.unpack("<I", data[-4:])[0]
    for magic, unpack in FORMATS:
        if data.startswith(magic):
            kernel = unpack(data)[:size]
            break
    else:
        raise ValueError("unknown compression " + data[:4].hex())
    if not kernel.startswith(b"\x7fELF"):
        raise ValueError("the payload does not unpack to an ELF file")
    return kernel


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        with open(sys.argv[1], "rb") as source:
            kernel = extract(source.read())
        with open(sys.argv[2], "wb") as target:
            target.write(kernel)
    except (OSError, ValueError) as error:
        sys.exit(f"{sys.argv[1]}: {error}")


if __name__ == "__main__":
    main()
