// Renders a chart by Go's own text/template with sprig, which is what Helm does, and prints a JSON
// object: each template's text by its name. manifests_test.py compares helm_render.py with it.
//
//	GO111MODULE=off GOPATH=/usr/share/gocode go run helm_oracle.go CHART VALUES_JSON RELEASE_JSON
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig"
	"sigs.k8s.io/yaml"
)

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	chart := os.Args[1]
	var values, release, about map[string]interface{}
	must(json.Unmarshal([]byte(os.Args[2]), &values))
	must(json.Unmarshal([]byte(os.Args[3]), &release))
	text, err := os.ReadFile(filepath.Join(chart, "Chart.yaml"))
	must(err)
	must(yaml.Unmarshal(text, &about))
	chartValues := map[string]interface{}{}
	for name, value := range about {
		chartValues[strings.ToUpper(name[:1])+name[1:]] = value
	}

	all := template.New("chart").Option("missingkey=error")
	functions := sprig.TxtFuncMap()
	functions["include"] = func(name string, data interface{}) (string, error) {
		var out bytes.Buffer
		err := all.ExecuteTemplate(&out, name, data)
		return out.String(), err
	}
	functions["toYaml"] = func(value interface{}) (string, error) {
		text, err := yaml.Marshal(value)
		return strings.TrimSuffix(string(text), "\n"), err
	}
	all.Funcs(functions)
	paths, err := filepath.Glob(filepath.Join(chart, "templates", "*"))
	must(err)
	for _, path := range paths {
		text, err := os.ReadFile(path)
		must(err)
		_, err = all.New(filepath.Base(path)).Parse(string(text))
		must(err)
	}
	rendered := map[string]string{}
	context := map[string]interface{}{"Values": values, "Release": release, "Chart": chartValues}
	for _, path := range paths {
		name := filepath.Base(path)
		if strings.HasPrefix(name, "_") {
			continue
		}
		var out bytes.Buffer
		must(all.ExecuteTemplate(&out, name, context))
		rendered[name] = out.String()
	}
	must(json.NewEncoder(os.Stdout).Encode(rendered))
}
