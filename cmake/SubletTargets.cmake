# What every target of the project has in common, so that a module's CMakeLists.txt is only its list
# of files.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib)

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()
# -O2: -O3 doubles the time that the optimiser takes and gains nothing that a benchmark here shows.
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -DNDEBUG")
set(CMAKE_C_FLAGS_RELEASE "-O2 -DNDEBUG")
# For the sanitizers: fast enough to run every test, with lines in the reports.
set(CMAKE_CXX_FLAGS_SANITIZE "-O1 -g1")
set(CMAKE_C_FLAGS_SANITIZE "-O1 -g1")

find_program(SUBLET_CCACHE ccache)
if(SUBLET_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${SUBLET_CCACHE})
  set(CMAKE_C_COMPILER_LAUNCHER ${SUBLET_CCACHE})
endif()
find_program(SUBLET_MOLD mold)
if(SUBLET_MOLD)
  add_link_options(-fuse-ld=mold)
endif()

set(SUBLET_SANITIZE "" CACHE STRING "Sanitizers for every target, as -fsanitize takes them")
if(SUBLET_SANITIZE)
  add_compile_options(-fsanitize=${SUBLET_SANITIZE} -fno-sanitize-recover=all
                      -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${SUBLET_SANITIZE})
  # Functions found by name in the driver's library are called by our declarations of them, whose
  # types have other names than the library's own. C allows that, and this check does not.
  if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang" AND SUBLET_SANITIZE MATCHES "undefined")
    add_compile_options(-fno-sanitize=function)
  endif()
endif()
# Every library is instrumented, so that a fuzzer sees which branches of the reader it reached.
if(SUBLET_BUILD_FUZZERS)
  add_compile_options(-fsanitize=fuzzer-no-link)
  add_link_options(-fsanitize=fuzzer-no-link)
endif()

option(SUBLET_WARNINGS_AS_ERRORS "Fail on compiler warnings" OFF)
add_compile_options(-Wall -Wextra -Wpedantic -Wshadow
                    $<$<COMPILE_LANGUAGE:CXX>:-Wnon-virtual-dtor>)
if(SUBLET_WARNINGS_AS_ERRORS)
  add_compile_options(-Werror)
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-Wthread-safety>)
endif()

# Debian's Python, which has Debian's modules; another one earlier on PATH would not find them.
if(EXISTS /usr/bin/python3)
  set(Python3_EXECUTABLE /usr/bin/python3 CACHE FILEPATH "Python for the tests")
endif()

# sublet_library(NAME SOURCES a.cc ... DEPS lib ...): a module as target sublet_NAME.
function(sublet_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_library(sublet_${name} STATIC ${ARG_SOURCES})
  target_include_directories(sublet_${name} PUBLIC ${CMAKE_SOURCE_DIR}/src ${CMAKE_SOURCE_DIR}/sim)
  target_link_libraries(sublet_${name} PUBLIC ${ARG_DEPS})
  sublet_choose_headers(sublet_${name} sublet_headers ${ARG_DEPS})
endfunction()

# sublet_test(NAME [OPTIMIZED] SOURCES a_test.cc ... DEPS lib ...): one GoogleTest program of a
# module.
function(sublet_test name)
  if(NOT SUBLET_BUILD_TESTS)
    return()
  endif()
  cmake_parse_arguments(ARG "OPTIMIZED" "TIMEOUT" "SOURCES;DEPS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  add_executable(${name} ${ARG_SOURCES})
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR}/src)
  target_compile_definitions(${name} PRIVATE SUBLET_SOURCE_DIR="${CMAKE_SOURCE_DIR}"
                             SUBLET_BINARY_DIR="${CMAKE_BINARY_DIR}")
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} GTest::gmock GTest::gtest_main)
  # Two thirds of what there is to compile, and run once: half the time, where what is tested is
  # optimized all the same.
  if(NOT ARG_OPTIMIZED)
    target_compile_options(${name} PRIVATE $<$<CONFIG:Release>:-O0>)
    sublet_choose_headers(${name} sublet_test_headers ${ARG_DEPS})
  endif()
  include(GoogleTest)
  gtest_discover_tests(${name} DISCOVERY_MODE PRE_TEST
                       PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS ${name})
endfunction()

# sublet_benchmark(NAME SOURCES ... DEPS ... TEST_FILTER regex): a Google Benchmark program; every
# test run executes it once, tiny, so that benchmarks don't rot. Where even once takes long,
# TEST_FILTER says which of its benchmarks are enough; with '-' in front, which to leave out.
function(sublet_benchmark name)
  if(NOT SUBLET_BUILD_BENCHMARKS)
    return()
  endif()
  cmake_parse_arguments(ARG "" "TEST_FILTER" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_compile_definitions(${name} PRIVATE SUBLET_SOURCE_DIR="${CMAKE_SOURCE_DIR}"
                             SUBLET_BINARY_DIR="${CMAKE_BINARY_DIR}")
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} benchmark::benchmark)
  if(SUBLET_BUILD_TESTS)
    if(NOT ARG_TEST_FILTER)
      set(ARG_TEST_FILTER all)
    endif()
    add_test(NAME ${name}.runs COMMAND ${name} --benchmark_min_time=0.001
             --benchmark_filter=${ARG_TEST_FILTER})
  endif()
endfunction()

# sublet_fuzzer(NAME SOURCES ... DEPS ...): a libFuzzer program; its corpus is fuzz/corpus/NAME
# beside the source.
function(sublet_fuzzer name)
  if(NOT SUBLET_BUILD_FUZZERS)
    return()
  endif()
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS})
  target_link_options(${name} PRIVATE -fsanitize=fuzzer)
  set_property(GLOBAL APPEND PROPERTY SUBLET_FUZZERS ${name})
endfunction()

# sublet_embed(TARGET FILES ...): the files' bytes as `extern const std::string_view` constants.
# data/boards.yaml becomes sublet::embedded::boards_yaml, declared in "embedded/TARGET.h".
function(sublet_embed target)
  cmake_parse_arguments(ARG "" "" "FILES" ${ARGN})
  set(dir ${CMAKE_CURRENT_BINARY_DIR}/embedded)
  string(CONCAT header
         "// Generated by sublet_embed().\n#pragma once\n\n#include <string_view>\n\n"
         "namespace sublet::embedded {\n\n")
  set(assembly "  .section .rodata\n")
  set(source "#include \"embedded/${target}.h\"\n\n#include <cstddef>\n\n")
  foreach(file ${ARG_FILES})
    get_filename_component(name ${file} NAME)
    string(MAKE_C_IDENTIFIER ${name} id)
    set(symbol sublet_embedded_${id})
    string(APPEND header "extern const std::string_view ${id};\n")
    string(APPEND assembly
           "  .global ${symbol}_begin\n  .global ${symbol}_end\n"
           "${symbol}_begin:\n  .incbin \"${file}\"\n${symbol}_end:\n  .byte 0\n")
    string(APPEND source
           "extern \"C\" const char ${symbol}_begin[], ${symbol}_end[];\n"
           "namespace sublet::embedded {\nconst std::string_view ${id}(\n"
           "    ${symbol}_begin, static_cast<std::size_t>(${symbol}_end - ${symbol}_begin));\n}\n")
  endforeach()
  string(APPEND header "\n}  // namespace sublet::embedded\n")
  string(APPEND assembly "  .section .note.GNU-stack,\"\",%progbits\n")
  file(CONFIGURE OUTPUT ${dir}/${target}.h CONTENT "${header}" @ONLY)
  file(CONFIGURE OUTPUT ${dir}/${target}.cc CONTENT "${source}" @ONLY)
  file(CONFIGURE OUTPUT ${dir}/${target}.S CONTENT "${assembly}" @ONLY)
  add_library(sublet_${target} OBJECT ${dir}/${target}.cc ${dir}/${target}.S)
  set_source_files_properties(${dir}/${target}.S PROPERTIES OBJECT_DEPENDS "${ARG_FILES}")
  target_include_directories(sublet_${target} PUBLIC ${CMAKE_CURRENT_BINARY_DIR})
endfunction()
