// cdi/tests/driver_tree.h
//
// A tree of files in a temporary folder that looks like a host with a driver.
//
//   const DriverTree tree;
//   tree.Library("/usr/lib/x86_64-linux-gnu/libcuda.so.580.1", "libcuda.so.1");
//   tree.Link("/usr/lib/x86_64-linux-gnu/libcuda.so.1", "libcuda.so.580.1");
//   FindDriverFiles({.root = tree.root(), .version = "580.1"})
//
// Libraries are the smallest files that are ELF libraries with a name.
#pragma once

#include <elf.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/check.h"
#include "cdi/root_path.h"

namespace sublet {

template <typename T>
std::string BytesOf(const T& value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}

// An ELF library that says nothing but its soname.
inline std::string ElfBytes(const std::string& soname, int machine = EM_X86_64) {
  constexpr std::uint64_t kBase = 0x1000;  // Loaded elsewhere than it lies.
  Elf64_Ehdr head{};
  std::memcpy(head.e_ident, ELFMAG, SELFMAG);
  head.e_ident[EI_CLASS] = ELFCLASS64;
  head.e_ident[EI_DATA] = ELFDATA2LSB;
  head.e_type = ET_DYN;
  head.e_machine = static_cast<Elf64_Half>(machine);
  head.e_phoff = sizeof head;
  head.e_phentsize = sizeof(Elf64_Phdr);
  head.e_phnum = 2;
  const std::uint64_t dynamic_at = sizeof head + 2 * sizeof(Elf64_Phdr);
  const std::uint64_t strings_at = dynamic_at + 3 * sizeof(Elf64_Dyn);
  const std::string strings = std::string(1, '\0') + soname + std::string(1, '\0');
  Elf64_Phdr load{};
  load.p_type = PT_LOAD;
  load.p_vaddr = kBase;
  load.p_filesz = strings_at + strings.size();
  Elf64_Phdr dynamic{};
  dynamic.p_type = PT_DYNAMIC;
  dynamic.p_offset = dynamic_at;
  dynamic.p_filesz = 3 * sizeof(Elf64_Dyn);
  Elf64_Dyn name{};
  name.d_tag = soname.empty() ? DT_NULL : DT_SONAME;
  name.d_un.d_val = 1;
  Elf64_Dyn table{};
  table.d_tag = DT_STRTAB;
  table.d_un.d_ptr = kBase + strings_at;
  return BytesOf(head) + BytesOf(load) + BytesOf(dynamic) + BytesOf(name) + BytesOf(table) +
         BytesOf(Elf64_Dyn{}) + strings;
}

// A cache as ldconfig writes it; with `old_too`, behind one in the old format.
inline std::string LdCacheBytes(const std::vector<std::pair<std::string, std::string>>& entries,
                                bool old_too = false) {
  const auto count = static_cast<std::uint32_t>(entries.size());
  std::string out = "glibc-ld.so.cache1.1" + BytesOf(count);
  std::string table;
  std::string texts;
  const std::size_t texts_at = 48 + entries.size() * 24;
  for (const auto& [name, path] : entries) {
    const auto key = static_cast<std::uint32_t>(texts_at + texts.size());
    texts += name + '\0';
    const auto value = static_cast<std::uint32_t>(texts_at + texts.size());
    texts += path + '\0';
    table += BytesOf(std::uint32_t{0x0303}) + BytesOf(key) + BytesOf(value) +
             BytesOf(std::uint32_t{0}) + BytesOf(std::uint64_t{0});
  }
  out += BytesOf(static_cast<std::uint32_t>(texts.size()));
  out += '\2';
  out.resize(48);
  out += table + texts;
  if (!old_too) return out;
  std::string old = std::string("ld.so-1.7.0") + '\0' + BytesOf(std::uint32_t{1});
  old.resize(16 + 12);
  old.resize(32);  // Where an 8-byte number may lie.
  return old + out;
}

class DriverTree {
 public:
  DriverTree() {
    std::string pattern = std::filesystem::temp_directory_path() / "sublet-cdi-XXXXXX";
    CHECK(::mkdtemp(pattern.data()) != nullptr);
    root_ = std::filesystem::canonical(pattern);
  }
  ~DriverTree() { std::filesystem::remove_all(root_); }
  DriverTree(const DriverTree&) = delete;
  DriverTree& operator=(const DriverTree&) = delete;

  const std::string& root() const { return root_; }
  std::string At(std::string_view path) const { return PathBelow(root_, path); }

  void Folder(std::string_view path) const { std::filesystem::create_directories(At(path)); }
  void File(std::string_view path, std::string_view content = "", unsigned mode = 0644) const {
    Folder(FolderOf(path));
    std::ofstream(At(path), std::ios::binary) << content;
    ::chmod(At(path).c_str(), mode);
  }
  void Library(std::string_view path, const std::string& soname, int machine = EM_X86_64) const {
    File(path, ElfBytes(soname, machine));
  }
  void Program(std::string_view path) const { File(path, "#!/bin/sh\n", 0755); }
  void Link(std::string_view path, const std::string& target) const {
    Folder(FolderOf(path));
    std::filesystem::create_symlink(target, At(path));
  }
  void Socket(std::string_view path) const {
    Folder(FolderOf(path));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const std::string at = At(path);
    CHECK(at.size() < sizeof address.sun_path);
    std::memcpy(address.sun_path, at.c_str(), at.size());
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
    ::close(fd);
  }
  // A character device; false where this user may make none.
  bool Device(std::string_view path, unsigned major_number, unsigned minor_number) const {
    Folder(FolderOf(path));
    return ::mknod(At(path).c_str(), S_IFCHR | 0666, makedev(major_number, minor_number)) == 0;
  }

 private:
  std::string root_;
};

}  // namespace sublet
