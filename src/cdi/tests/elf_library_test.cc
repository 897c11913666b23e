#include "cdi/elf_library.h"

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "cdi/tests/driver_tree.h"

namespace sublet {
namespace {

Result<ElfLibrary> Parse(const std::string& bytes) {
  return ParseElfLibrary([&bytes](std::uint64_t offset, void* out, std::size_t size) {
    if (offset > bytes.size() || size > bytes.size() - offset) return false;
    std::memcpy(out, bytes.data() + offset, size);
    return true;
  });
}

TEST(ElfLibrary, TellsItsNameAndMachine) {
  const auto library = Parse(ElfBytes("libcuda.so.1", EM_AARCH64));
  ASSERT_TRUE(library) << library.error().message;
  EXPECT_EQ(library->soname, "libcuda.so.1");
  EXPECT_EQ(library->machine, kElfMachineAarch64);
}

TEST(ElfLibrary, MayHaveNoName) {
  const auto library = Parse(ElfBytes(""));
  ASSERT_TRUE(library) << library.error().message;
  EXPECT_EQ(library->soname, "");
}

TEST(ElfLibrary, IsReadFromTheFileOfAnyLibrary) {
  Dl_info info{};
  ASSERT_NE(::dladdr(reinterpret_cast<const void*>(&::strlen), &info), 0);
  // A sanitizer has a strlen of its own.
  if (std::string(info.dli_fname).find("libc.so") == std::string::npos) {
    GTEST_SKIP() << "strlen is from " << info.dli_fname;
  }
  const auto library = ReadElfLibrary(info.dli_fname);
  ASSERT_TRUE(library) << library.error().message;
  EXPECT_EQ(library->soname, "libc.so.6");
}

TEST(ElfLibrary, RefusesWhatIsNone) {
  EXPECT_FALSE(Parse(""));
  EXPECT_FALSE(Parse("#!/bin/sh\n"));
  std::string bytes = ElfBytes("libcuda.so.1");
  bytes[EI_CLASS] = ELFCLASS32;
  const auto narrow = Parse(bytes);
  ASSERT_FALSE(narrow);
  EXPECT_EQ(narrow.error().code, ErrorCode::kUnsupported);
  EXPECT_FALSE(Parse(ElfBytes("../../evil")));
  EXPECT_FALSE(Parse(ElfBytes(std::string(300, 'a'))));
  EXPECT_FALSE(ReadElfLibrary("/proc/self/status"));
  EXPECT_EQ(ReadElfLibrary("/none").error().code, ErrorCode::kNotFound);
}

TEST(ElfLibrary, SurvivesEveryBeginningAndEveryChangedByte) {
  const std::string whole = ElfBytes("libcuda.so.1");
  for (std::size_t length = 0; length < whole.size(); ++length) {
    EXPECT_FALSE(Parse(whole.substr(0, length))) << length;
  }
  for (std::size_t at = 0; at < whole.size(); ++at) {
    for (const char byte : {'\0', '\x7f', '\xff'}) {
      std::string bytes = whole;
      bytes[at] = byte;
      const auto library = Parse(bytes);
      EXPECT_TRUE(!library || library->soname.size() <= 255);
    }
  }
}

}  // namespace
}  // namespace sublet
