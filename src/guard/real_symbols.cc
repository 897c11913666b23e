#include "guard/real_symbols.h"

#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <stdint.h>
#include <string.h>

namespace sublet::guard {
namespace {

std::atomic<Dlsym> real_dlsym{nullptr};
std::atomic<Dlvsym> real_dlvsym{nullptr};

struct DynamicTables {
  const ElfW(Sym) * symbols = nullptr;
  const char* names = nullptr;
  const std::uint32_t* hash = nullptr;  // DT_GNU_HASH
};

// Most loaders write absolute addresses into a loaded object's dynamic section, some leave offsets.
template <typename T>
const T* At(const dl_phdr_info& object, ElfW(Addr) value) {
  return reinterpret_cast<const T*>(value < object.dlpi_addr ? value + object.dlpi_addr : value);
}

DynamicTables TablesOf(const dl_phdr_info& object) {
  DynamicTables tables;
  for (int i = 0; i < object.dlpi_phnum; ++i) {
    if (object.dlpi_phdr[i].p_type != PT_DYNAMIC) continue;
    const auto* entry =
        reinterpret_cast<const ElfW(Dyn)*>(object.dlpi_addr + object.dlpi_phdr[i].p_vaddr);
    for (; entry->d_tag != DT_NULL; ++entry) {
      const ElfW(Addr) value = entry->d_un.d_ptr;
      if (entry->d_tag == DT_SYMTAB) tables.symbols = At<ElfW(Sym)>(object, value);
      if (entry->d_tag == DT_STRTAB) tables.names = At<char>(object, value);
      if (entry->d_tag == DT_GNU_HASH) tables.hash = At<std::uint32_t>(object, value);
    }
  }
  return tables;
}

// The hash table as the linkers write it: four words of header, a Bloom filter, the buckets (first
// symbol of each), and for each symbol its hash, whose lowest bit marks the last of a bucket.
void* FindFunction(const dl_phdr_info& object, const DynamicTables& tables, const char* name) {
  if (tables.symbols == nullptr || tables.names == nullptr || tables.hash == nullptr) {
    return nullptr;
  }
  std::uint32_t hash = 5381;
  for (const char* c = name; *c != '\0'; ++c) hash = hash * 33 + static_cast<unsigned char>(*c);
  const std::uint32_t bucket_count = tables.hash[0];
  const std::uint32_t first = tables.hash[1];
  const std::uint32_t filter_words = tables.hash[2] * (sizeof(ElfW(Addr)) / sizeof(std::uint32_t));
  const std::uint32_t* const buckets = tables.hash + 4 + filter_words;
  const std::uint32_t* const chain = buckets + bucket_count;
  if (bucket_count == 0) return nullptr;
  std::uint32_t index = buckets[hash % bucket_count];
  if (index < first) return nullptr;
  for (;; ++index) {
    const std::uint32_t entry = chain[index - first];
    const ElfW(Sym)& symbol = tables.symbols[index];
    if ((entry | 1u) == (hash | 1u) && symbol.st_shndx != SHN_UNDEF &&
        ELF64_ST_TYPE(symbol.st_info) == STT_FUNC &&
        ::strcmp(tables.names + symbol.st_name, name) == 0) {
      return reinterpret_cast<void*>(object.dlpi_addr + symbol.st_value);
    }
    if ((entry & 1u) != 0) return nullptr;
  }
}

bool IsNamed(const char* path, const char* beginning) {
  const char* const slash = ::strrchr(path, '/');
  const char* const name = slash == nullptr ? path : slash + 1;
  return ::strncmp(name, beginning, ::strlen(beginning)) == 0;
}

int LookAt(dl_phdr_info* object, std::size_t, void*) {
  // Until glibc 2.34 the two were in a library of their own.
  if (!IsNamed(object->dlpi_name, "libc.so.") && !IsNamed(object->dlpi_name, "libdl.so.")) return 0;
  const DynamicTables tables = TablesOf(*object);
  void* const dlsym_found = FindFunction(*object, tables, "dlsym");
  void* const dlvsym_found = FindFunction(*object, tables, "dlvsym");
  if (dlsym_found == nullptr || dlvsym_found == nullptr) return 0;
  real_dlvsym.store(reinterpret_cast<Dlvsym>(dlvsym_found));
  real_dlsym.store(reinterpret_cast<Dlsym>(dlsym_found));
  return 1;
}

}  // namespace

Dlsym RealDlsym() {
  if (real_dlsym.load() == nullptr) ::dl_iterate_phdr(LookAt, nullptr);
  return real_dlsym.load();
}

Dlvsym RealDlvsym() {
  if (real_dlvsym.load() == nullptr) ::dl_iterate_phdr(LookAt, nullptr);
  return real_dlvsym.load();
}

AnyFunction DriverFunction(const char* name) {
  const Dlsym find = RealDlsym();
  if (find == nullptr) return nullptr;
  // What comes after this library in the program's own order, where the driver is linked to it.
  void* found = find(RTLD_NEXT, name);
  if (found == nullptr) {
    // A program linked to nothing of CUDA can load a plug-in that is. Then the driver is loaded,
    // but not in the order that RTLD_NEXT follows.
    void* const driver = ::dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
    // The second look at the same place is for dlerror(), which the attempt has emptied.
    found = driver != nullptr ? find(driver, name) : find(RTLD_NEXT, name);
  }
  return reinterpret_cast<AnyFunction>(found);
}

AnyFunction DriverFunction(std::atomic<AnyFunction>& slot, const char* name) {
  AnyFunction function = slot.load(std::memory_order_acquire);
  if (function == nullptr) {
    function = DriverFunction(name);
    slot.store(function, std::memory_order_release);
  }
  return function;
}

}  // namespace sublet::guard
