// The page as text; tests/web opens it in a browser.
#include "measure/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

namespace sublet {
namespace {

using Json = nlohmann::ordered_json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

std::string DataOf(const std::string& page) {
  const std::string open = R"(<script id="sublet-data" type="application/json">)";
  const std::size_t begin = page.find(open);
  if (begin == std::string::npos) return "no data element";
  const std::size_t end = page.find("</script", begin);
  return page.substr(begin + open.size(), end - begin - open.size());
}

Json DisturbedBy(const std::string& process) {
  return {{"measurement", {{"disturbed_by", {process}}}}};
}

TEST(MeasurementReport, CarriesTheDocumentUnchanged) {
  const Json document = DisturbedBy("1234 python3, 812 MiB");
  EXPECT_EQ(Json::parse(DataOf(MeasurementReport(document))), document);
}

TEST(MeasurementReport, NamesCanNotLeaveTheirElement) {
  const Json document = DisturbedBy("</script><script>alert(1)</script><!--");
  const std::string data = DataOf(MeasurementReport(document));
  EXPECT_THAT(data, AllOf(Not(HasSubstr("<")), Not(HasSubstr(">"))));
  EXPECT_EQ(Json::parse(data), document);
}

TEST(MeasurementReport, ShowsWhatIsNotUtf8WithReplacementCharacters) {
  const std::string data = DataOf(MeasurementReport(DisturbedBy("cut \xE2\x80")));
  EXPECT_THAT(data, HasSubstr("cut \xEF\xBF\xBD"));
  EXPECT_TRUE(Json::accept(data));
}

TEST(MeasurementReport, AllowsItsOwnScriptOnly) {
  const std::string page = MeasurementReport(DisturbedBy("x"));
  const std::size_t policy = page.find("default-src 'none'; script-src 'sha256-");
  ASSERT_NE(policy, std::string::npos);
  EXPECT_LT(policy, page.find("<script"));
}

}  // namespace
}  // namespace sublet
