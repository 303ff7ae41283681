package deploy

import (
	"bytes"
	"cmp"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"sigs.k8s.io/yaml"
)

const (
	alertRules = "../../deploy/chart/twill/files/alerts.yaml"
	alertTests = "testdata/alerts.yaml"
)

// promtool runs Prometheus' own tool, which is where `make promtool` puts it, or where TWILL_PROMTOOL says.
func promtool(t *testing.T, args ...string) (string, error) {
	t.Helper()
	program := cmp.Or(os.Getenv("TWILL_PROMTOOL"), "../../.cache/tools/promtool")
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("%v; run `make promtool`", err)
	}
	var out bytes.Buffer
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// Prometheus reads the alerts, each fires when it should, and none when something like it happens.
func TestAlertsFire(t *testing.T) {
	for _, args := range [][]string{{"check", "rules", alertRules}, {"test", "rules", alertTests}} {
		if out, err := promtool(t, args...); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
}

// An alert that never fires fails its test.
func TestAlertTestsCanFail(t *testing.T) {
	dir := t.TempDir()
	rules := filepath.Join(dir, "rules.yaml")
	silent := bytes.ReplaceAll([]byte(read(t, alertRules)), []byte("expr: twill_ready == 0"), []byte("expr: twill_ready == 7"))
	tests := bytes.ReplaceAll([]byte(read(t, alertTests)), []byte("../../../deploy/chart/twill/files/alerts.yaml"), []byte(rules))
	for name, data := range map[string][]byte{rules: silent, filepath.Join(dir, "tests.yaml"): tests} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := promtool(t, "test", "rules", filepath.Join(dir, "tests.yaml")); err == nil {
		t.Errorf("an alert that is silent is not noticed:\n%s", out)
	}
}

// Each alert has a test in which it fires, and one in which it does not.
func TestEachAlertIsTested(t *testing.T) {
	var file struct{ Tests []struct{ Name string } }
	if err := yaml.Unmarshal([]byte(read(t, alertTests)), &file); err != nil {
		t.Fatal(err)
	}
	var have, want []string
	for _, c := range file.Tests {
		have = append(have, c.Name)
	}
	for name := range maps.Keys(alerts(t, render(t, "monitoring.enabled=true"))) {
		want = append(want, name+" fires", name+" is quiet")
	}
	slices.Sort(have)
	slices.Sort(want)
	if !slices.Equal(have, want) {
		t.Errorf("have %v, want %v", have, want)
	}
}
