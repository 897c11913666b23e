#include "cdi/root_path.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <climits>
#include <filesystem>
#include <string>

#include "base/file_descriptor.h"
#include "cdi/tests/driver_tree.h"

namespace sublet {
namespace {

using ::testing::ElementsAre;

TEST(RootPath, IsPutBelowTheRoot) {
  EXPECT_EQ(PathBelow("/", "/usr"), "/usr");
  EXPECT_EQ(PathBelow("", "/usr"), "/usr");
  EXPECT_EQ(PathBelow("/driver-root", "/usr"), "/driver-root/usr");
  EXPECT_EQ(PathBelow("/driver-root/", "/usr"), "/driver-root/usr");
  EXPECT_EQ(FolderOf("/a/b.so"), "/a");
  EXPECT_EQ(FolderOf("/b.so"), "/");
  EXPECT_EQ(LastNameOf("/a/b.so"), "b.so");
}

TEST(RootPath, FollowsLinksInsideTheRoot) {
  const DriverTree tree;
  tree.File("/usr/lib/libcuda.so.580", "x");
  tree.Link("/lib", "usr/lib");
  tree.Link("/usr/lib/libcuda.so.1", "/etc/alternatives/libcuda");
  tree.Link("/etc/alternatives/libcuda", "../../lib/libcuda.so.580");
  EXPECT_EQ(*ResolveInRoot(tree.root(), "/lib/libcuda.so.1"), "/usr/lib/libcuda.so.580");
  EXPECT_EQ(*ResolveInRoot(tree.root(), "/"), "/");
  EXPECT_EQ(*ResolveInRoot(tree.root(), "//usr/./lib/"), "/usr/lib");
}

TEST(RootPath, NeverLeadsOutOfTheRoot) {
  const DriverTree tree;
  tree.Folder("/a");
  tree.Link("/a/out", "../../../../../../etc/passwd");
  tree.Link("/a/absolute", "/etc/passwd");
  for (const char* path : {"/a/out", "/a/absolute", "/../../../../../etc/passwd"}) {
    const auto resolved = ResolveInRoot(tree.root(), path);
    ASSERT_FALSE(resolved) << path;
    EXPECT_EQ(resolved.error().code, ErrorCode::kNotFound) << path;
  }
  tree.File("/etc/passwd", "ours");
  for (const char* path : {"/a/out", "/a/absolute", "/../../../../../etc/passwd"}) {
    EXPECT_EQ(*ResolveInRoot(tree.root(), path), "/etc/passwd") << path;
  }
}

TEST(RootPath, EndsInARingOfLinks) {
  const DriverTree tree;
  tree.Link("/a", "b");
  tree.Link("/b", "a");
  const auto resolved = ResolveInRoot(tree.root(), "/a");
  ASSERT_FALSE(resolved);
  EXPECT_EQ(resolved.error().code, ErrorCode::kInvalid);
}

TEST(RootPath, ListsNamesInOrder) {
  const DriverTree tree;
  for (const char* name : {"/d/b", "/d/a", "/d/.c"}) tree.File(name);
  tree.Link("/e", "/d");
  EXPECT_THAT(NamesInRoot(tree.root(), "/e"), ElementsAre(".c", "a", "b"));
  EXPECT_THAT(NamesInRoot(tree.root(), "/none"), ElementsAre());
}

// What the kernel makes of a path in that root; empty where there is none.
std::string KernelResolves(const std::string& root, const std::string& path) {
  const FileDescriptor folder(::open(root.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  open_how how{};
  how.flags = O_PATH | O_CLOEXEC;
  how.resolve = RESOLVE_IN_ROOT;
  const FileDescriptor file(
      static_cast<int>(::syscall(SYS_openat2, folder.get(), path.c_str(), &how, sizeof how)));
  if (!file.valid()) return {};
  std::array<char, PATH_MAX> name{};
  const std::string link = "/proc/self/fd/" + std::to_string(file.get());
  const ssize_t length = ::readlink(link.c_str(), name.data(), name.size());
  const std::string real(name.data(), static_cast<std::size_t>(length));
  return real == root ? "/" : real.substr(root.size());
}

TEST(RootPath, AgreesWithTheKernel) {
  const DriverTree tree;
  if (KernelResolves(tree.root(), "/") != "/") {
    GTEST_SKIP() << "this kernel has no openat2()";
  }
  const std::array<std::string, 3> names = {"a", "b", "c"};
  const std::array<std::string, 6> targets = {"..", "/", "../a", "/b/c", "b", "../../c/a"};
  tree.Folder("/a/b/c");
  tree.File("/b");
  tree.Folder("/c");
  std::size_t next = 0;
  for (const std::string folder : {"/a", "/a/b", "/a/b/c", "/c"}) {
    for (const std::string& name : names) {
      const std::string path = folder + "/" + name;
      if (std::filesystem::exists(std::filesystem::symlink_status(tree.At(path)))) continue;
      tree.Link(path, targets[next++ % targets.size()]);
    }
  }
  const std::array<std::string, 4> parts = {"a", "b", "c", ".."};
  for (int number = 0; number < 4 * 4 * 4 * 4 * 4; ++number) {
    std::string path;
    for (int rest = number, length = 0; length < 5; rest /= 4, ++length) {
      path += "/" + parts[static_cast<std::size_t>(rest % 4)];
    }
    const auto ours = ResolveInRoot(tree.root(), path);
    // Behind a file ".." is an error of the kernel's, and a step back of ours.
    const std::string kernels = KernelResolves(tree.root(), path);
    if (!kernels.empty() || !ours) {
      EXPECT_EQ(ours ? *ours : "", kernels) << path;
    }
  }
}

}  // namespace
}  // namespace sublet
