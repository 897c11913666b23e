# What surrounds the data plane: discovery, watching, the workers' API, metrics, the log, reload.
sublet_library(proxy_control
               SOURCES access_log.cc control_api.cc endpoint_slices.cc fetch.cc file_watch.cc
                       key_file.cc kubernetes_watch.cc node_discovery.cc proxy_settings_of.cc
                       replica_fleet.cc replica_sources.cc replica_watch.cc route_metrics.cc
                       route_metrics_page.cc route_service.cc source_state.cc workers_json.cc
               DEPS sublet_asio_ssl sublet_base sublet_model sublet_http sublet_kvcache
                    sublet_observe sublet_proxy sublet_route nlohmann_json::nlohmann_json fmt::fmt
                    spdlog::spdlog)
sublet_test(proxy_control_tests
            SOURCES tests/access_log_test.cc tests/control_api_test.cc tests/fetch_test.cc
                    tests/fetch_tls_test.cc tests/file_watch_test.cc tests/key_file_test.cc
                    tests/key_rate_test.cc tests/kubernetes_watch_test.cc
                    tests/model_alias_test.cc tests/node_discovery_test.cc
                    tests/replica_fleet_test.cc tests/replica_sources_test.cc
                    tests/replica_watch_test.cc tests/route_metrics_test.cc
                    tests/route_service_test.cc
                    tests/scripted_server.cc
            DEPS sublet_proxy_control)
foreach(reader endpoint_slices model_alias)
  sublet_fuzzer(${reader}_fuzz SOURCES fuzz/${reader}_fuzz.cc DEPS sublet_proxy_control)
endforeach()
