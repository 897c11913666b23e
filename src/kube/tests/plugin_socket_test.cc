#include "kube/plugin_socket.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>

namespace sublet {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class PluginSocketTest : public ::testing::Test {
 protected:
  PluginSocketTest() { EXPECT_NE(::mkdtemp(folder_.data()), nullptr); }
  ~PluginSocketTest() override { fs::remove_all(folder_); }

  bool Connects(const std::string& path) const {
    const FileDescriptor socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
    return ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) ==
           0;
  }

  std::string folder_ = "/tmp/sublet-test-XXXXXX";
};

TEST(PluginSocketName, IsNvidias) {
  EXPECT_EQ(PluginSocketName("nvidia.com/gpu"), "nvidia-gpu.sock");
  EXPECT_EQ(PluginSocketName("nvidia.com/gpu.shared"), "nvidia-gpu.shared.sock");
  EXPECT_EQ(PluginSocketName("nvidia.com/mig-1g.10gb"), "nvidia-mig-1g.10gb.sock");
  EXPECT_EQ(PluginSocketName("example.com/gpu"), "example.com-gpu.sock");
}

TEST_F(PluginSocketTest, ListensAndIsGoneOnceItIsClosed) {
  std::optional<PluginSocket> socket = PluginSocket::Listen(folder_, "nvidia.com/gpu").value();
  EXPECT_EQ(socket->path(), folder_ + "/nvidia-gpu.sock");
  EXPECT_EQ(socket->name(), "nvidia-gpu.sock");
  EXPECT_TRUE(socket->IsThere());
  EXPECT_TRUE(Connects(socket->path()));
  struct stat status {};
  ASSERT_EQ(::lstat(socket->path().c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  socket.reset();
  EXPECT_TRUE(fs::is_empty(folder_));
}

TEST_F(PluginSocketTest, TakesThePlaceOfOneOnWhichNobodyListens) {
  const std::string path = folder_ + "/nvidia-gpu.sock";
  {
    // As of a plugin that was killed: the file stays.
    const FileDescriptor dead(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
    ASSERT_EQ(::bind(dead.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  }
  ASSERT_TRUE(fs::is_socket(path));
  std::ofstream(path + "~") << "what another one left halfway";
  const PluginSocket socket = PluginSocket::Listen(folder_, "nvidia.com/gpu").value();
  EXPECT_TRUE(Connects(path));
  EXPECT_FALSE(fs::exists(path + "~"));
}

TEST_F(PluginSocketTest, LeavesAPluginThatLivesAlone) {
  const PluginSocket first = PluginSocket::Listen(folder_, "nvidia.com/gpu").value();
  const Result<PluginSocket> second = PluginSocket::Listen(folder_, "nvidia.com/gpu");
  ASSERT_FALSE(second.has_value());
  EXPECT_EQ(second.error().code, ErrorCode::kConflict);
  EXPECT_TRUE(first.IsThere());
}

TEST_F(PluginSocketTest, LeavesWhatIsNoSocketAlone) {
  std::ofstream(folder_ + "/nvidia-gpu.sock") << "somebody's";
  const Result<PluginSocket> socket = PluginSocket::Listen(folder_, "nvidia.com/gpu");
  ASSERT_FALSE(socket.has_value());
  EXPECT_EQ(socket.error().code, ErrorCode::kConflict);
  EXPECT_TRUE(fs::exists(folder_ + "/nvidia-gpu.sock"));
}

TEST_F(PluginSocketTest, RefusesAPathThatIsTooLongOrIsntThere) {
  const Result<PluginSocket> longer = PluginSocket::Listen(folder_, std::string(90, 'n'));
  ASSERT_FALSE(longer.has_value());
  EXPECT_EQ(longer.error().code, ErrorCode::kUsage);
  EXPECT_THAT(longer.error().message, HasSubstr("too long"));
  const Result<PluginSocket> nowhere = PluginSocket::Listen(folder_ + "/none", "nvidia.com/gpu");
  ASSERT_FALSE(nowhere.has_value());
  EXPECT_EQ(nowhere.error().code, ErrorCode::kNotFound);
}

TEST_F(PluginSocketTest, KnowsThatItsFileIsAnothers) {
  PluginSocket socket = PluginSocket::Listen(folder_, "nvidia.com/gpu").value();
  fs::remove(socket.path());
  EXPECT_FALSE(socket.IsThere());
  PluginSocket next = PluginSocket::Listen(folder_, "nvidia.com/gpu").value();
  EXPECT_FALSE(socket.IsThere());
  socket.Close();
  EXPECT_TRUE(next.IsThere()) << "what is another's isn't removed";
}

}  // namespace
}  // namespace sublet
