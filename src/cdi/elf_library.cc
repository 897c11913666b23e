#include "cdi/elf_library.h"

#include <elf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <vector>

#include "base/file_descriptor.h"
#include "base/files.h"

namespace sublet {
namespace {

constexpr std::size_t kSegmentsMax = 64;          // Libraries have about ten.
constexpr std::size_t kDynamicEntriesMax = 4096;  // About thirty, and one for each library needed.
constexpr std::size_t kNameBytesMax = 255;        // NAME_MAX: a soname becomes a file's name.

tl::unexpected<Error> NoLibrary(std::string why) {
  return Fail(ErrorCode::kInvalid, "no shared library: " + std::move(why));
}

Result<Elf64_Ehdr> ReadHead(const ByteSource& source) {
  Elf64_Ehdr head{};
  if (!source(0, &head, sizeof head) || std::memcmp(head.e_ident, ELFMAG, SELFMAG) != 0) {
    return NoLibrary("it isn't in the ELF format");
  }
  if (head.e_ident[EI_CLASS] != ELFCLASS64 || head.e_ident[EI_DATA] != ELFDATA2LSB) {
    return Fail(ErrorCode::kUnsupported, "a library that isn't 64-bit and little-endian");
  }
  if (head.e_type != ET_DYN) return NoLibrary("it is a program or an object");
  if (head.e_phentsize != sizeof(Elf64_Phdr) || head.e_phnum > kSegmentsMax) {
    return NoLibrary("its table of segments is strange");
  }
  return head;
}

Result<std::vector<Elf64_Phdr>> ReadSegments(const ByteSource& source, const Elf64_Ehdr& head) {
  std::vector<Elf64_Phdr> segments(head.e_phnum);
  if (!segments.empty() &&
      !source(head.e_phoff, segments.data(), segments.size() * sizeof(Elf64_Phdr))) {
    return NoLibrary("it ends before its segments");
  }
  return segments;
}

// Where in the file the byte lies that is loaded at `address`.
std::optional<std::uint64_t> OffsetOf(const std::vector<Elf64_Phdr>& segments,
                                      std::uint64_t address) {
  for (const Elf64_Phdr& segment : segments) {
    if (segment.p_type != PT_LOAD || address < segment.p_vaddr ||
        address - segment.p_vaddr >= segment.p_filesz) {
      continue;
    }
    const std::uint64_t offset = segment.p_offset + (address - segment.p_vaddr);
    if (offset >= segment.p_offset) return offset;  // Not beyond 2^64.
  }
  return std::nullopt;
}

struct DynamicFacts {
  std::optional<std::uint64_t> soname;   // Offset in the strings.
  std::optional<std::uint64_t> strings;  // Address.
};

Result<DynamicFacts> ReadDynamic(const ByteSource& source, const Elf64_Phdr& segment) {
  const std::size_t count = segment.p_filesz / sizeof(Elf64_Dyn);
  if (count > kDynamicEntriesMax) return NoLibrary("its dynamic section is too long");
  std::vector<Elf64_Dyn> entries(count);
  if (count > 0 && !source(segment.p_offset, entries.data(), count * sizeof(Elf64_Dyn))) {
    return NoLibrary("it ends before its dynamic section");
  }
  DynamicFacts facts;
  for (const Elf64_Dyn& entry : entries) {
    if (entry.d_tag == DT_NULL) break;
    if (entry.d_tag == DT_SONAME) facts.soname = entry.d_un.d_val;
    if (entry.d_tag == DT_STRTAB) facts.strings = entry.d_un.d_ptr;
  }
  return facts;
}

// The text there, byte by byte, because it may be the last of the file.
Result<std::string> ReadName(const ByteSource& source, std::uint64_t offset) {
  std::string name;
  for (; name.size() <= kNameBytesMax; ++offset) {
    char byte = 0;
    if (!source(offset, &byte, 1)) return NoLibrary("it ends in its name");
    if (byte == '\0') break;
    if (byte < ' ' || byte > '~' || byte == '/') return NoLibrary("its name is no file's name");
    name += byte;
  }
  if (name.size() > kNameBytesMax) return NoLibrary("its name is too long");
  return name;
}

}  // namespace

Result<ElfLibrary> ParseElfLibrary(const ByteSource& source) {
  ASSIGN_OR_RETURN(const Elf64_Ehdr head, ReadHead(source));
  ASSIGN_OR_RETURN(const std::vector<Elf64_Phdr> segments, ReadSegments(source, head));
  ElfLibrary library{.machine = head.e_machine, .soname = {}};
  const auto dynamic = std::ranges::find(segments, Elf64_Word{PT_DYNAMIC}, &Elf64_Phdr::p_type);
  if (dynamic == segments.end()) return NoLibrary("it has no dynamic section");
  ASSIGN_OR_RETURN(const DynamicFacts facts, ReadDynamic(source, *dynamic));
  if (!facts.soname) return library;
  const auto strings = facts.strings ? OffsetOf(segments, *facts.strings) : std::nullopt;
  if (!strings || *strings + *facts.soname < *strings) {
    return NoLibrary("its strings lie outside");
  }
  ASSIGN_OR_RETURN(library.soname, ReadName(source, *strings + *facts.soname));
  return library;
}

Result<ElfLibrary> ReadElfLibrary(const std::string& path) {
  const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file.valid()) return FailFromErrno(errno, "reading " + path);
  auto library = ParseElfLibrary([&file](std::uint64_t offset, void* bytes, std::size_t size) {
    if (offset > static_cast<std::uint64_t>(INT64_MAX)) return false;
    const ssize_t got = ::pread(file.get(), bytes, size, static_cast<off_t>(offset));
    return got >= 0 && static_cast<std::size_t>(got) == size;
  });
  if (!library) return tl::unexpected<Error>(std::move(library).error().Prefixed(path));
  return library;
}

}  // namespace sublet
