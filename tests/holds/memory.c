/* Gives out so many bytes of memory in large blocks and no more, as a device that has no more does.
 *
 * ONNX Runtime takes its own by aligned_alloc; small blocks are not counted. Preloaded into the unchanged program. Built by the
 * tests: cc -shared -fPIC -o memory.so memory.c -ldl
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { LARGE = 1 << 18, MOST = 1024 };
static struct { void *_Atomic at; size_t size; } blocks[MOST];
static atomic_size_t taken;

void *aligned_alloc(size_t alignment, size_t size) {
    static void *(*real)(size_t, size_t);
    if (!real) real = (void *(*)(size_t, size_t))dlsym(RTLD_NEXT, "aligned_alloc");
    const char *most = getenv("MEMORY_MOST");
    if (!most || size < LARGE) return real(alignment, size);
    if (atomic_fetch_add(&taken, size) + size > (size_t)atoll(most)) {
        atomic_fetch_sub(&taken, size);
        return NULL;
    }
    void *block = real(alignment, size);
    for (int n = 0; n < MOST; n++) {
        void *nobody = NULL;
        if (atomic_compare_exchange_strong(&blocks[n].at, &nobody, block)) {
            blocks[n].size = size;
            break;
        }
    }
    return block;
}

void free(void *block) {
    static void (*real)(void *);
    if (!real) real = (void (*)(void *))dlsym(RTLD_NEXT, "free");
    for (int n = 0; block && n < MOST && atomic_load(&taken); n++) {
        if (atomic_load(&blocks[n].at) == block) {
            atomic_fetch_sub(&taken, blocks[n].size);
            atomic_store(&blocks[n].at, NULL);
            break;
        }
    }
    real(block);
}
