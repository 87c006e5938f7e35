// The pc board's display: a VGA with its memory, and the keyboard controller as its input.
#include "device/display/vga.h"
#include "device/misc/i8042.h"
#include "host/memory.h"
#include "machine/board/pc_impl.h"

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

err_t board_add_display(struct vm *vm, struct error *e)
{
    struct board *board = vm->board;
    if (!vm_config_has_vga(vm->config))
        return OK;
    err_t err = host_ram_new(VGA_VRAM_BYTES, &board->vram, e);
    if (err)
        return error_in(e, "video memory");
    struct vga_config config = {.vram = board->vram, .vram_bytes = VGA_VRAM_BYTES};
    board->display = (struct display){&ops, board};
    return board_plug(vm, &vga_type, "vga", &config, &board->vga, e);
}

void board_free_display(struct vm *vm)
{
    host_ram_free(vm->board->vram, VGA_VRAM_BYTES);
}

const struct display *vm_display(const struct vm *vm)
{
    return vm->board->vga ? &vm->board->display : NULL;
}
