package deploy

import (
	"encoding/json"
	"io/fs"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// names of figures, as they are written in Go and in queries.
var (
	exported = regexp.MustCompile(`"((?:twill|kubeproxy)_[a-z_]+)"`)
	asked    = regexp.MustCompile(`\b(?:twill|kubeproxy)_[a-z_]+`)
	suffix   = regexp.MustCompile(`_(?:bucket|sum|count)$`)
)

// figures are the names of what twilld exports.
func figures(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for _, dir := range []string{"../../daemon", "../../dns"} {
		err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
				return err
			}
			for _, m := range exported.FindAllStringSubmatch(read(t, name), -1) {
				names[m[1]] = true
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(names) < 20 {
		t.Fatalf("found %d figures", len(names))
	}
	return names
}

// What an alert or a panel asks for has to exist, or else it is silent for ever.
func TestQueriesAskForWhatIsExported(t *testing.T) {
	o := render(t, "monitoring.enabled=true")
	names := figures(t)
	used := map[string]bool{}
	for where, queries := range map[string][]string{"alert": slices.Collect(maps.Values(alerts(t, o))), "panel": panels(t, o)} {
		if len(queries) < 10 {
			t.Errorf("found %d queries of %ss", len(queries), where)
		}
		for _, q := range queries {
			for _, name := range asked.FindAllString(q, -1) {
				used[name] = true
				if !names[name] && !names[suffix.ReplaceAllString(name, "")] {
					t.Errorf("%s asks for %s, which twilld does not export: %s", where, name, q)
				}
			}
		}
	}
	if len(used) < 20 {
		t.Errorf("the queries use few figures: %v", slices.Sorted(maps.Keys(used)))
	}
}

// Who is woken by an alert finds a line about it, and no line is about an alert that is gone.
func TestAlertsAreExplained(t *testing.T) {
	page := read(t, "../../docs/kubernetes.md")
	_, page, _ = strings.Cut(page, "\n| alert | what to do |\n")
	page, _, _ = strings.Cut(page, "\n\n")
	explained := map[string]bool{}
	for line := range strings.Lines(page) {
		names, _, _ := strings.Cut(strings.TrimPrefix(line, "| "), " | ")
		for name := range strings.SplitSeq(names, ", ") {
			explained[name] = strings.HasPrefix(name, "Twill")
		}
	}
	for name := range alerts(t, render(t, "monitoring.enabled=true")) {
		if !explained[name] {
			t.Errorf("docs/kubernetes.md does not say what to do about %s", name)
		}
		delete(explained, name)
	}
	for name, is := range explained {
		if is {
			t.Errorf("docs/kubernetes.md explains %s, which is no alert", name)
		}
	}
}

// Each part of the daemon that has figures of failures has an alert of them.
func TestFailuresAreAlerted(t *testing.T) {
	all := strings.Join(slices.Collect(maps.Values(alerts(t, render(t, "monitoring.enabled=true")))), "\n")
	for name := range figures(t) {
		failure := strings.HasSuffix(name, "_failures_total") || strings.HasSuffix(name, "_drift_total") || strings.HasSuffix(name, "_flawed_objects")
		if failure && strings.HasPrefix(name, "twill_") && !strings.Contains(all, name) {
			t.Errorf("no alert asks for %s", name)
		}
	}
}

// alerts returns the queries of alerts, by name.
func alerts(t *testing.T, o objects) map[string]string {
	t.Helper()
	var rule struct {
		Spec struct {
			Groups []struct {
				Name  string
				Rules []struct {
					Alert, Expr, For    string
					Labels, Annotations map[string]string
				}
			}
		}
	}
	remarshal(t, o.others["PrometheusRule"], &rule)
	queries := map[string]string{}
	for _, g := range rule.Spec.Groups {
		for _, r := range g.Rules {
			queries[r.Alert] = r.Expr
			if !strings.HasPrefix(r.Alert, "Twill") || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("alert %q: it needs a name that begins with Twill, a summary and a description", r.Alert)
			}
			if s := r.Labels["severity"]; s != "critical" && s != "warning" {
				t.Errorf("alert %s has severity %q", r.Alert, s)
			}
		}
	}
	return queries
}

func panels(t *testing.T, o objects) []string {
	t.Helper()
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(o.configs["twill-dashboard"].Data["twill.json"]), &board); err != nil {
		t.Fatal(err)
	}
	var queries []string
	for _, p := range board.Panels {
		for _, target := range p.Targets {
			queries = append(queries, target.Expr)
		}
	}
	return queries
}

func remarshal(t *testing.T, from, into any) {
	t.Helper()
	data, err := json.Marshal(from)
	if err == nil {
		err = json.Unmarshal(data, into)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestMonitoringObjects(t *testing.T) {
	for _, c := range []struct {
		name   string
		values []string
		want   []string // kinds of the operator
		board  bool
	}{
		{"off", nil, nil, false},
		{"default", []string{"monitoring.enabled=true"}, []string{"PodMonitor", "PrometheusRule"}, true},
		{"by the Service", []string{"monitoring.enabled=true", "monitoring.scrape=ServiceMonitor"}, []string{"PrometheusRule", "ServiceMonitor"}, true},
		{"no operator", []string{"monitoring.enabled=true", "monitoring.scrape=none", "monitoring.alerts=false", "monitoring.dashboard=false"}, nil, false},
		{"cleanup", []string{"monitoring.enabled=true", "cleanup.enabled=true"}, nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := render(t, c.values...)
			if have := slices.Sorted(maps.Keys(o.others)); !slices.Equal(have, c.want) {
				t.Errorf("have %v, want %v", have, c.want)
			}
			if have := o.configs["twill-dashboard"] != nil; have != c.board {
				t.Errorf("dashboard: %v, want %v", have, c.board)
			}
		})
	}
}

func TestMetricsPort(t *testing.T) {
	if ports := container(t, render(t).daemon(t, "twill"), "twilld").Ports; len(ports) > 0 {
		t.Errorf("a port of the host is taken though nobody asked for it: %v", ports)
	}
	o := render(t, "monitoring.enabled=true", "monitoring.port=9000")
	ports := container(t, o.daemon(t, "twill"), "twilld").Ports
	if len(ports) != 1 || ports[0].Name != "metrics" || ports[0].ContainerPort != 9000 {
		t.Errorf("ports %v", ports)
	}
	service := o.services["twill-metrics"]
	if service.Spec.ClusterIP != "None" || service.Spec.Ports[0].Port != 9000 || service.Spec.Ports[0].TargetPort.String() != "metrics" {
		t.Errorf("Service %v", service.Spec)
	}
}
