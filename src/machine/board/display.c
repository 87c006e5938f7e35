// The pc board's display: a VGA with its memory, and the keyboard controller as its input.
#include "device/display/vga.h"
#include "device/misc/i8042.h"
#include "host/memory.h"
#include "machine/board/pc_impl.h"

#define VIDEO_BIOS_MAX (256 * KIB)

static bool draw(void *opaque, struct picture *p, struct damage *damage)
{
    const struct board *board = opaque;
    device_lock(board->vga);
    bool resized = vga_draw(board->vga, p, damage);
    device_unlock(board->vga);
    return resized;
}

static err_t text(void *opaque, struct display_text *out, struct error *e)
{
    const struct board *board = opaque;
    device_lock(board->vga);
    err_t err = vga_text(board->vga, out, e);
    device_unlock(board->vga);
    return err;
}

static bool key(void *opaque, unsigned code, bool down)
{
    const struct board *board = opaque;
    device_lock(board->i8042);
    bool taken = i8042_key(board->i8042, code, down);
    device_unlock(board->i8042);
    return taken;
}

static void mouse(void *opaque, int dx, int dy, int wheel, unsigned buttons)
{
    const struct board *board = opaque;
    device_lock(board->i8042);
    i8042_mouse(board->i8042, dx, -dy, wheel, buttons);
    device_unlock(board->i8042);
}

static const struct display_ops ops = {draw, text, key, mouse};

// SeaBIOS' for this VGA: a BIOS does not draw by itself. UEFI and kernels bring drivers.
static err_t load_video_bios(struct vm *vm, struct error *e)
{
    static const char *const paths[] = {"/usr/share/seabios/vgabios-stdvga.bin",
                                        "/usr/share/qemu/vgabios-stdvga.bin"};
    if (vm->board->firmware.kind != FIRMWARE_BIOS)
        return OK;
    err_t err = ERR_NOT_FOUND;
    for (size_t i = 0; err == ERR_NOT_FOUND && i < ARRAY_LEN(paths); i++)
        err = host_file_read(paths[i], VIDEO_BIOS_MAX, &vm->board->video_bios, e);
    return err == ERR_NOT_FOUND
               ? error_set(e, err,
                           "there is no video BIOS '%s'; install it with apt-get install seabios, "
                           "or do without a display: --vga none",
                           paths[0])
               : err;
}

err_t board_add_display(struct vm *vm, struct error *e)
{
    struct board *board = vm->board;
    if (!vm_config_has_vga(vm->config))
        return OK;
    err_t err = host_ram_new(VGA_VRAM_BYTES, HOST_RAM_PRIVATE, &board->vram, e);
    if (err)
        return error_in(e, "video memory");
    err = load_video_bios(vm, e);
    if (err)
        return err;
    const struct vga_config config = {.vram = board->vram,
                                      .vram_bytes = VGA_VRAM_BYTES,
                                      .rom = board->video_bios.data,
                                      .rom_bytes = (uint32_t)board->video_bios.len};
    board->display = (struct display){&ops, board};
    return board_plug(vm, &vga_type, "vga", &config, &board->vga, e);
}

void board_free_display(struct vm *vm)
{
    host_ram_free(vm->board->vram, VGA_VRAM_BYTES);
    host_file_release(&vm->board->video_bios);
}

const struct display *vm_display(const struct vm *vm)
{
    return vm->board->vga ? &vm->board->display : NULL;
}
