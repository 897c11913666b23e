#include "exe/node_place.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>

#include "base/file_descriptor.h"

namespace sublet {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::IsEmpty;

// A machine of its own: folders below a temporary one, and daemons that are only said to be there.
class NodePlaceTest : public testing::Test {
 protected:
  NodePlaceTest() {
    std::string folder = testing::TempDir() + "place-XXXXXX";
    EXPECT_NE(::mkdtemp(folder.data()), nullptr);
    root_ = folder;
    for (const char* name : {"/run", "/tmp", "/house", "/system"})
      fs::create_directory(root_ + name);
    variables_ = {{"XDG_RUNTIME_DIR", root_ + "/run"}};
    here_.environment = [this](const char* name) -> std::optional<std::string> {
      const auto it = variables_.find(name);
      return it == variables_.end() ? std::nullopt : std::optional(it->second);
    };
    here_.uid = ::geteuid();
    here_.system_socket = root_ + "/system/sublet.sock";
    here_.system_state = root_ + "/system-state";
    here_.temporary = root_ + "/tmp";
    here_.home = root_ + "/house";
    here_.listens = [this](const std::string& socket) { return listening_.contains(socket); };
    here_.busy = [this](const std::string& socket) { return busy_.contains(socket); };
  }
  ~NodePlaceTest() override { fs::remove_all(root_); }

  // A daemon that was started with SUBLET_SIM, whose verbs come without.
  std::string StartSimulation(const std::string& simulation, const std::string& state = "") {
    variables_["SUBLET_SIM"] = simulation;
    if (!state.empty()) variables_["SUBLET_SIM_STATE"] = state;
    const Result<NodePlace> place = PlaceOfDaemonIn(here_, "", "", "");
    EXPECT_TRUE(place) << place.error().message;
    variables_.erase("SUBLET_SIM");
    variables_.erase("SUBLET_SIM_STATE");
    listening_.insert(place->socket);
    return place->socket;
  }

  void MakeSystemSocket() {
    socket_ = FileDescriptor(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    ASSERT_LT(here_.system_socket.size(), sizeof address.sun_path);
    std::strcpy(address.sun_path, here_.system_socket.c_str());
    ASSERT_EQ(::bind(socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  }

  NodePlace Find(Intent intent, const std::string& flag = "") {
    Result<NodePlace> place = FindNodePlaceIn(here_, flag, intent);
    EXPECT_TRUE(place) << place.error().message;
    return place ? *place : NodePlace{};
  }

  std::string root_;
  std::map<std::string, std::string> variables_;
  std::set<std::string> listening_;
  std::set<std::string> busy_;
  FileDescriptor socket_;
  PlaceSurroundings here_;
};

TEST_F(NodePlaceTest, TheUsersOwnIsInItsRuntimeFolder) {
  const NodePlace place = Find(Intent::kStart);
  EXPECT_EQ(place.socket, root_ + "/run/sublet/sublet.sock");
  EXPECT_EQ(place.state, root_ + "/house/.local/state/sublet");
  EXPECT_FALSE(place.system);
  EXPECT_THAT(place.note, IsEmpty());
}

TEST_F(NodePlaceTest, TheStateFollowsXdgStateHome) {
  variables_["XDG_STATE_HOME"] = "/elsewhere";
  EXPECT_EQ(Find(Intent::kStart).state, "/elsewhere/sublet");
  variables_["XDG_STATE_HOME"] = "relative";
  EXPECT_EQ(Find(Intent::kStart).state, root_ + "/house/.local/state/sublet");
}

TEST_F(NodePlaceTest, WithoutARuntimeFolderOfItsOwnAUserHasOneInTmp) {
  const std::string expected = here_.temporary + "/sublet-" + std::to_string(here_.uid);
  variables_.erase("XDG_RUNTIME_DIR");
  EXPECT_EQ(Find(Intent::kStart).socket, expected + "/sublet.sock");
  variables_["XDG_RUNTIME_DIR"] = root_ + "/missing";
  EXPECT_EQ(Find(Intent::kStart).socket, expected + "/sublet.sock");
  // As after a sudo: the folder is there, and somebody else's.
  variables_["XDG_RUNTIME_DIR"] = root_ + "/run";
  here_.uid += 1;
  EXPECT_THAT(Find(Intent::kStart).socket, HasSubstr("/tmp/sublet-"));
}

TEST_F(NodePlaceTest, AFolderInTmpThatIsOpenToOthersIsRefused) {
  variables_.erase("XDG_RUNTIME_DIR");
  const std::string folder = here_.temporary + "/sublet-" + std::to_string(here_.uid);
  ASSERT_EQ(::mkdir(folder.c_str(), 0700), 0);
  ASSERT_EQ(::chmod(folder.c_str(), 0770), 0);
  const Result<NodePlace> place = FindNodePlaceIn(here_, "", Intent::kStart);
  ASSERT_FALSE(place);
  EXPECT_EQ(place.error().code, ErrorCode::kPermission);
  EXPECT_THAT(place.error().message, HasSubstr(folder));
  ASSERT_EQ(::chmod(folder.c_str(), 0700), 0);
  EXPECT_TRUE(FindNodePlaceIn(here_, "", Intent::kStart));
}

TEST_F(NodePlaceTest, ALinkInTmpIsRefused) {
  variables_.erase("XDG_RUNTIME_DIR");
  const std::string folder = here_.temporary + "/sublet-" + std::to_string(here_.uid);
  fs::create_symlink(root_ + "/run", folder);
  EXPECT_FALSE(FindNodePlaceIn(here_, "", Intent::kStart));
}

TEST_F(NodePlaceTest, SimulationsHavePlacesOfTheirOwn) {
  std::set<std::string> sockets;
  std::set<std::string> states;
  const std::string longest(60, 'a');
  for (const std::string& simulation :
       {std::string("h200"), std::string("h200:1"), std::string("h200_1"),
        std::string("a100-80gb:1"), std::string("a100-80gb:1,l4:1"), std::string("A100-80gb:1"),
        longest, longest + "b", std::string("/a/node.json"), std::string("/b/node.json")}) {
    variables_["SUBLET_SIM"] = simulation;
    variables_.erase("SUBLET_SIM_STATE");
    for (const char* state : {"", "/x/one", "/x/two"}) {
      if (*state != '\0') variables_["SUBLET_SIM_STATE"] = state;
      const NodePlace place = Find(Intent::kStart);
      EXPECT_TRUE(sockets.insert(place.socket).second) << simulation << " " << state;
      EXPECT_TRUE(states.insert(place.state).second) << simulation << " " << state;
      EXPECT_EQ(place.simulation, simulation);
      EXPECT_EQ(place.simulation_state, state);
      EXPECT_LT(place.socket.size() - root_.size(), 70u);
    }
  }
  variables_ = {{"XDG_RUNTIME_DIR", root_ + "/run"}, {"SUBLET_SIM", "a100-80gb:1"}};
  EXPECT_EQ(Find(Intent::kLook).socket, root_ + "/run/sublet/sim-a100-80gb_1/sublet.sock");
  EXPECT_EQ(Find(Intent::kLook).state, root_ + "/house/.local/state/sublet/sim-a100-80gb_1");
}

TEST_F(NodePlaceTest, ANodeFileIsTheSameWhereverOneStands) {
  variables_["SUBLET_SIM"] = "data/../node.json";
  const NodePlace relative = Find(Intent::kStart);
  variables_["SUBLET_SIM"] = (fs::current_path() / "node.json").string();
  EXPECT_EQ(relative.socket, Find(Intent::kStart).socket);
  EXPECT_EQ(relative.simulation, variables_["SUBLET_SIM"]);
}

TEST_F(NodePlaceTest, AVerbThatLooksFindsTheOnlySimulatedNode) {
  const std::string socket = StartSimulation("a100-80gb:1");
  const NodePlace place = Find(Intent::kLook);
  EXPECT_EQ(place.socket, socket);
  EXPECT_EQ(place.state, root_ + "/house/.local/state/sublet/sim-a100-80gb_1");
  EXPECT_EQ(place.simulation, "a100-80gb:1");
  EXPECT_EQ(place.note, "using the simulated node a100-80gb:1");
}

TEST_F(NodePlaceTest, AVerbThatStartsDoesNotLandOnASimulatedNode) {
  StartSimulation("a100-80gb:1");
  EXPECT_EQ(Find(Intent::kStart).socket, root_ + "/run/sublet/sublet.sock");
}

TEST_F(NodePlaceTest, TheRealNodesDaemonComesBeforeSimulatedOnes) {
  StartSimulation("a100-80gb:1");
  listening_.insert(root_ + "/run/sublet/sublet.sock");
  EXPECT_EQ(Find(Intent::kLook).socket, root_ + "/run/sublet/sublet.sock");
  EXPECT_THAT(Find(Intent::kLook).simulation, IsEmpty());
}

TEST_F(NodePlaceTest, ASimulationWhoseDaemonHasGoneIsNotMeant) {
  const std::string gone = StartSimulation("h200:1");
  StartSimulation("a100-80gb:1");
  listening_.erase(gone);
  EXPECT_EQ(Find(Intent::kLook).simulation, "a100-80gb:1");
  listening_.clear();
  EXPECT_EQ(Find(Intent::kLook).socket, root_ + "/run/sublet/sublet.sock");
}

TEST_F(NodePlaceTest, AmongSeveralSimulationsTheOneAtWorkIsMeant) {
  StartSimulation("a100-80gb:1");
  busy_.insert(StartSimulation("a100-80gb:2"));
  EXPECT_EQ(Find(Intent::kLook).simulation, "a100-80gb:2");
}

TEST_F(NodePlaceTest, SeveralSimulationsAreListedWithHowToChoose) {
  StartSimulation("h200:1", "/x/one");
  StartSimulation("a100-80gb:1");
  const Result<NodePlace> place = FindNodePlaceIn(here_, "", Intent::kLook);
  ASSERT_FALSE(place);
  EXPECT_EQ(place.error().code, ErrorCode::kConflict);
  EXPECT_THAT(place.error().message, HasSubstr("SUBLET_SIM=a100-80gb:1"));
  EXPECT_THAT(place.error().message, HasSubstr("SUBLET_SIM=h200:1 SUBLET_SIM_STATE=/x/one"));
  EXPECT_THAT(place.error().hint, HasSubstr("SUBLET_SIM=a100-80gb:1 sublet"));
}

TEST_F(NodePlaceTest, TheSystemsDaemonComesFirst) {
  MakeSystemSocket();
  const NodePlace place = Find(Intent::kStart);
  EXPECT_TRUE(place.system);
  EXPECT_EQ(place.socket, here_.system_socket);
  EXPECT_EQ(place.state, here_.system_state);
  // It serves the real GPUs.
  variables_["SUBLET_SIM"] = "h200";
  EXPECT_FALSE(Find(Intent::kStart).system);
}

TEST_F(NodePlaceTest, ASystemSocketThatIsClosedToTheUserIsSaid) {
  if (::geteuid() == 0) GTEST_SKIP() << "nothing is closed to root";
  MakeSystemSocket();
  ASSERT_EQ(::chmod(here_.system_socket.c_str(), 0), 0);
  const NodePlace place = Find(Intent::kStart);
  EXPECT_FALSE(place.system);
  EXPECT_THAT(place.note, HasSubstr("isn't open to you"));
}

TEST_F(NodePlaceTest, ANamedSocketWins) {
  MakeSystemSocket();
  variables_["SUBLET_SOCKET"] = "/x/named.sock";
  EXPECT_EQ(Find(Intent::kStart).socket, "/x/named.sock");
  EXPECT_THAT(Find(Intent::kStart).state, IsEmpty());
  EXPECT_EQ(Find(Intent::kStart, "/x/flag.sock").socket, "/x/flag.sock");
  EXPECT_EQ(Find(Intent::kStart, "here.sock").socket, (fs::current_path() / "here.sock").string());
}

TEST_F(NodePlaceTest, ADaemonMakesTheFolderOfItsSocket) {
  here_.uid = ::geteuid();
  variables_["SUBLET_SIM"] = "h200";
  const Result<NodePlace> place = PlaceOfDaemonIn(here_, "", "", "");
  ASSERT_TRUE(place) << place.error().message;
  struct stat status {};
  ASSERT_EQ(::stat((root_ + "/run/sublet/sim-h200").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0700u);
  EXPECT_EQ(place->socket, Find(Intent::kLook).socket);
}

TEST_F(NodePlaceTest, ADaemonTakesItsFlagsThenTheEnvironmentThenTheConfig) {
  variables_["SUBLET_SIM"] = "h200";
  const std::string config = root_ + "/config/c.sock";
  EXPECT_EQ(PlaceOfDaemonIn(here_, "", "", config)->socket, config);
  variables_["SUBLET_SOCKET"] = root_ + "/env/e.sock";
  EXPECT_EQ(PlaceOfDaemonIn(here_, "", "", config)->socket, root_ + "/env/e.sock");
  const Result<NodePlace> place =
      PlaceOfDaemonIn(here_, root_ + "/flag/f.sock", root_ + "/my-state", config);
  EXPECT_EQ(place->socket, root_ + "/flag/f.sock");
  EXPECT_EQ(place->state, root_ + "/my-state");
}

TEST_F(NodePlaceTest, RootsDaemonIsTheSystems) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root";
  const Result<NodePlace> place = PlaceOfDaemonIn(here_, "", "", "");
  ASSERT_TRUE(place) << place.error().message;
  EXPECT_TRUE(place->system);
  EXPECT_EQ(place->socket, here_.system_socket);
  EXPECT_EQ(place->state, here_.system_state);
}

TEST_F(NodePlaceTest, ADaemonDoesNotListenWhereOthersMayWrite) {
  const std::string folder = root_ + "/open";
  fs::create_directory(folder);
  ASSERT_EQ(::chmod(folder.c_str(), 0777), 0);
  const Result<NodePlace> place = PlaceOfDaemonIn(here_, folder + "/s.sock", "", "");
  ASSERT_FALSE(place);
  EXPECT_EQ(place.error().code, ErrorCode::kPermission);
}

}  // namespace
}  // namespace sublet
