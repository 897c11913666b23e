// Every case in every target, compared with the files in tests/golden/render/.
//
//   CASE/TARGET/...         what Render() returns
//   CASE/TARGET/error.txt   or its refusal; then CASE/TARGET-lossy/... is the lossy rendering
//
// The scripts of render/shell/ are copied as they are into every linux and compose rendering; they
// are compared with their sources instead of being kept here many times.
//
// SUBLET_UPDATE_GOLDEN=1 rewrites the folder; the differences are then to be read in git.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <map>

#include "child_process.h"
#include "plan_builder.h"
#include "render/render.h"

namespace sublet {
namespace {

namespace fs = std::filesystem;

const fs::path kGolden = fs::path(SUBLET_SOURCE_DIR) / "tests/golden/render";
const fs::path kShell = fs::path(SUBLET_SOURCE_DIR) / "src/render/shell";

// A script of render/shell/, by the path that it is installed at; empty for other files.
std::string ScriptSource(const std::string& path) {
  const fs::path name(path);
  if (name.parent_path().filename() != "bin") return "";
  std::string file = name.stem();
  for (char& c : file) c = c == '-' ? '_' : c;
  return ReadAll(kShell / (file + ".sh"));
}

std::string WithoutComments(const std::string& text) {
  std::string out;
  std::size_t at = 0;
  while (at < text.size()) {
    const std::size_t end = text.find('\n', at);
    const std::string line = text.substr(at, end - at + 1);
    if (!line.starts_with('#')) out += line;
    at = end == std::string::npos ? text.size() : end + 1;
  }
  return out;
}

using Files = std::map<std::string, std::string>;

// What belongs below tests/golden/render/, for all cases and targets.
Files AllRenderings() {
  Files all;
  for (const RenderCase& known : RenderCases()) {
    for (const Target target : AllTargets()) {
      const std::string folder = fmt::format("{}/{}", known.name, TargetName(target));
      const auto add = [&](const std::string& base, const Rendering& rendering) {
        for (const RenderedFile& file : rendering.files) {
          const std::string script = ScriptSource(file.path);
          EXPECT_EQ(file.mode & 0111, file.content.starts_with("#!") ? 0111u : 0u) << file.path;
          if (script.empty()) {
            all[base + "/" + file.path] = file.content;
          } else {
            EXPECT_EQ(WithoutComments(file.content), WithoutComments(script)) << file.path;
          }
        }
      };
      const Result<Rendering> exact = Render(known.plan, target, {});
      if (exact) {
        EXPECT_THAT(exact->warnings, ::testing::IsEmpty());
        add(folder, *exact);
        continue;
      }
      all[folder + "/error.txt"] = fmt::format("{}\n{}\n{}\n", ErrorCodeName(exact.error().code),
                                               exact.error().message, exact.error().hint);
      const Result<Rendering> lossy = Render(known.plan, target, {.lossy = true});
      EXPECT_TRUE(lossy) << lossy.error().message;
      if (!lossy) continue;
      EXPECT_THAT(lossy->warnings, ::testing::Not(::testing::IsEmpty()));
      add(folder + "-lossy", *lossy);
    }
  }
  return all;
}

Files GoldenFiles() {
  Files all;
  if (!fs::exists(kGolden)) return all;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(kGolden)) {
    if (!entry.is_regular_file()) continue;
    all[fs::relative(entry.path(), kGolden)] = ReadAll(entry.path());
  }
  return all;
}

TEST(GoldenFiles, AreWhatEachCaseRendersTo) {
  const Files rendered = AllRenderings();
  if (std::getenv("SUBLET_UPDATE_GOLDEN") != nullptr) {
    fs::remove_all(kGolden);
    for (const auto& [path, content] : rendered) {
      fs::create_directories((kGolden / path).parent_path());
      WriteAll(kGolden / path, content);
    }
    GTEST_SKIP() << "golden files were rewritten";
  }
  const Files golden = GoldenFiles();
  for (const auto& [path, content] : rendered) {
    const auto known = golden.find(path);
    if (known == golden.end()) {
      ADD_FAILURE() << "no golden file: " << path;
    } else {
      EXPECT_EQ(content, known->second) << path;
    }
  }
  for (const auto& [path, content] : golden) {
    EXPECT_TRUE(rendered.contains(path)) << "nothing renders this: " << path;
  }
}

TEST(Render, GivesTheSameBytesEveryTime) {
  for (const RenderCase& known : RenderCases()) {
    for (const Target target : AllTargets()) {
      const Result<Rendering> one = Render(known.plan, target, {.lossy = true});
      const Result<Rendering> two = Render(known.plan, target, {.lossy = true});
      ASSERT_TRUE(one && two);
      ASSERT_EQ(one->files.size(), two->files.size());
      for (std::size_t i = 0; i < one->files.size(); ++i) {
        EXPECT_EQ(one->files[i].content, two->files[i].content);
      }
    }
  }
}

}  // namespace
}  // namespace sublet
