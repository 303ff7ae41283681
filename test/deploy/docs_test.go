package deploy

import (
	"fmt"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// The page's table has every value of the chart, with its default.
func TestValuesAreDocumented(t *testing.T) {
	var values map[string]any
	if err := yaml.Unmarshal([]byte(read(t, deployDir+"/chart/twill/values.yaml")), &values); err != nil {
		t.Fatal(err)
	}
	page := read(t, "../../docs/kubernetes.md")
	defaults := map[string]string{}
	leaves("", values, defaults)
	for name, value := range defaults {
		row := "| `" + name + "` | "
		if value != "" {
			row += "`" + value + "` |"
		}
		if !strings.Contains(page, "\n"+row) {
			t.Errorf("docs/kubernetes.md has no row %s", row)
		}
	}
	for line := range strings.Lines(page) {
		name, _, ok := strings.Cut(strings.TrimPrefix(line, "| `"), "` | ")
		if strings.HasPrefix(line, "| `") && ok && strings.Count(line, " | ") == 2 && !strings.Contains(name, "/") {
			if _, ok := defaults[name]; !ok {
				t.Errorf("docs/kubernetes.md has a row for %s, which is no value", name)
			}
		}
	}
}

// whole are values that stand in one row.
var whole = map[string]bool{"resources": true, "tolerations": true, "monitoring.dashboardLabels": true}

// leaves adds the values below name and how their defaults are written; those of lists and objects with something in them are for people to
// write.
func leaves(name string, v any, to map[string]string) {
	m, ok := v.(map[string]any)
	switch {
	case whole[name]:
		to[name] = ""
	case ok && len(m) > 0:
		for key, value := range m {
			leaves(strings.TrimPrefix(name+"."+key, "."), value, to)
		}
	case ok:
		to[name] = "{}"
	case v == "":
		to[name] = `""`
	default:
		to[name] = fmt.Sprint(v)
	}
}
