# The headers of others that many files parse, parsed once for each way of compiling: a sixth of
# what a first build takes. What a file includes it must still name: the sanitizers' presets are
# built without this, and so is check_headers.

option(SUBLET_PRECOMPILED_HEADERS "Parse the headers of others once" ON)

set(SUBLET_STD_HEADERS <algorithm> <chrono> <cstdint> <functional> <map> <memory> <optional> <set>
                       <string> <string_view> <utility> <variant> <vector>
                       <fmt/format.h> <nlohmann/json.hpp> <tl/expected.hpp>)
set(SUBLET_ASIO_HEADERS <boost/asio/any_io_executor.hpp> <boost/asio/as_tuple.hpp>
                        <boost/asio/awaitable.hpp> <boost/asio/co_spawn.hpp>
                        <boost/asio/ip/tcp.hpp> <boost/asio/local/stream_protocol.hpp>
                        <boost/asio/posix/stream_descriptor.hpp> <boost/asio/post.hpp>
                        <boost/asio/signal_set.hpp> <boost/asio/steady_timer.hpp>
                        <boost/asio/thread_pool.hpp> <boost/asio/use_awaitable.hpp>)

# sublet_precompile(SET [TEST] [PROGRAM] HEADERS <h> ... DEPS lib ...): a set of headers, compiled
# as a module's library is, or as a test, or as another program.
function(sublet_precompile set)
  if(NOT SUBLET_PRECOMPILED_HEADERS)
    return()
  endif()
  cmake_parse_arguments(ARG "TEST;PROGRAM" "" "HEADERS;DEPS" ${ARGN})
  set(source ${CMAKE_BINARY_DIR}/precompiled/${set}.cc)
  file(CONFIGURE OUTPUT ${source} CONTENT "// For CMake, which precompiles headers for sources.\n")
  add_library(${set} OBJECT ${source})
  target_link_libraries(${set} PRIVATE ${ARG_DEPS})
  target_precompile_headers(${set} PRIVATE ${ARG_HEADERS})
  if(ARG_TEST)
    target_compile_options(${set} PRIVATE $<$<CONFIG:Release>:-O0>)
  endif()
  if(ARG_TEST OR ARG_PROGRAM)
    set_target_properties(${set} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
    target_compile_options(${set} PRIVATE ${CMAKE_CXX_COMPILE_OPTIONS_PIE})
  endif()
endfunction()

# sublet_reuse_headers(TARGET SET): both must be compiled alike.
function(sublet_reuse_headers target set)
  if(NOT TARGET ${set})
    return()
  endif()
  target_precompile_headers(${target} REUSE_FROM ${set})
  # What GCC suspects within a system's header it keeps to itself, but not within a precompiled one.
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(${target} PRIVATE -Wno-array-bounds -Wno-restrict
                                             -Wno-stringop-overflow -Wno-stringop-overread)
  endif()
endfunction()

# sublet_links(LIBRARY RESULT TARGET ...): whether one of the targets links the library.
function(sublet_links library result)
  set(${result} FALSE PARENT_SCOPE)
  foreach(target ${ARGN})
    set(found FALSE)
    if(target STREQUAL library)
      set(found TRUE)
    elseif(TARGET ${target} AND target MATCHES "^sublet_")
      get_target_property(links ${target} INTERFACE_LINK_LIBRARIES)
      if(links)
        sublet_links(${library} found ${links})
      endif()
    endif()
    if(found)
      set(${result} TRUE PARENT_SCOPE)
      return()
    endif()
  endforeach()
endfunction()

# sublet_choose_headers(TARGET SET DEPS...): SET_asio for what links Asio, else SET for what links
# fmt; macros of either would make another set invalid.
function(sublet_choose_headers target set)
  foreach(candidate "${set}_asio;sublet_asio" "${set};fmt::fmt")
    list(GET candidate 0 name)
    list(GET candidate 1 library)
    sublet_links(${library} links ${ARGN})
    if(links)
      sublet_reuse_headers(${target} ${name})
      return()
    endif()
  endforeach()
endfunction()
