// The page as text; tests/web opens it in a browser.
#include "render/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <regex>
#include <string>
#include <vector>

#include "base/files.h"

namespace sublet {
namespace {

using Json = nlohmann::ordered_json;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

// What stands between the tags of the element that carries the data, as a browser sees it: up to
// the first "</script", whatever comes after.
std::string DataOf(const std::string& page) {
  const std::string open = R"(<script id="sublet-data" type="application/json">)";
  const std::size_t begin = page.find(open);
  if (begin == std::string::npos) return "no data element";
  const std::size_t end = page.find("</script", begin);
  return page.substr(begin + open.size(), end - begin - open.size());
}

std::vector<std::string> Matches(const std::string& text, const std::string& pattern) {
  const std::regex regex(pattern, std::regex::icase);
  std::vector<std::string> found;
  for (std::sregex_iterator it(text.begin(), text.end(), regex), end; it != end; ++it) {
    found.push_back(it->str());
  }
  return found;
}

std::string PlanNamed(const std::string& name) {
  return Json{{"version", "sublet.plan/v1"}, {"fleet", name}}.dump();
}

TEST(Report, CarriesThePlanUnchanged) {
  const Result<std::string> text =
      ReadFile(SUBLET_SOURCE_DIR "/tests/web/samples/mig-nested.json", 1 << 20);
  ASSERT_TRUE(text.has_value()) << text.error().message;
  EXPECT_EQ(DataOf(RenderReport(*text)), *text);
}

TEST(Report, NamesCanNotLeaveTheirElement) {
  for (const std::string hostile :
       {"</script><script>alert(1)</script>", "</SCRIPT ><img src=x onerror=alert(1)>",
        "<!--<script>", "]]><svg onload=alert(1)>", "&lt;/script&gt;", "__SUBLET_DATA__"}) {
    const std::string page = RenderReport(PlanNamed(hostile));
    const std::string data = DataOf(page);
    EXPECT_EQ(Json::parse(data)["fleet"], hostile);
    EXPECT_THAT(Matches(data, "[<>&]"), IsEmpty()) << hostile;
    // The page around it is the same as for a harmless name.
    const std::string harmless = RenderReport(PlanNamed("x"));
    EXPECT_EQ(page.size() - data.size(), harmless.size() - DataOf(harmless).size()) << hostile;
  }
}

TEST(Report, WritesLineSeparatorsAsEscapes) {
  const std::string name = "a\xE2\x80\xA8z\xE2\x80\xA9z\xE2\x80\x93z";
  const std::string data = DataOf(RenderReport(PlanNamed(name)));
  EXPECT_THAT(data, HasSubstr(R"(a\u2028z\u2029z)"));
  EXPECT_THAT(data, Not(HasSubstr("\xE2\x80\xA8")));
  EXPECT_THAT(data, Not(HasSubstr("\xE2\x80\xA9")));
  EXPECT_THAT(data, HasSubstr("\xE2\x80\x93"));  // Its neighbour, the dash, stays as it is.
  EXPECT_EQ(Json::parse(data)["fleet"], name);
}

TEST(Report, EscapesInTextThatIsNoJson) {
  EXPECT_EQ(DataOf(RenderReport("</script>")), R"(\u003c/script\u003e)");
  EXPECT_EQ(DataOf(RenderReport("cut \xE2\x80")), "cut \xE2\x80");
  EXPECT_EQ(DataOf(RenderReport("cut \xE2\x80<")), "cut \xE2\x80\\u003c");
  EXPECT_EQ(DataOf(RenderReport("")), "");
}

TEST(Report, LoadsNothing) {
  const std::string page = RenderReport(PlanNamed("x"));
  // Elements and style rules that would fetch something; an icon in the address itself does not.
  EXPECT_THAT(Matches(page, R"(\s(src|srcset|poster|action)\s*=\s*["'][^"']+["'])"), IsEmpty());
  EXPECT_THAT(Matches(page, R"(\shref\s*=\s*["'](?!data:|#)[^"']+["'])"), IsEmpty());
  EXPECT_THAT(Matches(page, R"(@import|url\(\s*["']?(https?:|//))"), IsEmpty());
}

TEST(Report, AllowsItsOwnScriptOnly) {
  const std::string page = RenderReport(PlanNamed("x"));
  EXPECT_THAT(page, HasSubstr("default-src 'none'; script-src 'sha256-"));
  const std::size_t policy = page.find("Content-Security-Policy");
  ASSERT_NE(policy, std::string::npos);
  EXPECT_LT(policy, page.find("<script"));
  EXPECT_THAT(page.substr(0, page.find("<script")), Not(HasSubstr("script-src 'unsafe-inline'")));
}

}  // namespace
}  // namespace sublet
