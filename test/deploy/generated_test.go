package deploy

import (
	"bytes"
	"cmp"
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	diff "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const deployDir = "../../deploy"

func TestGeneratedFilesAreTheCharts(t *testing.T) {
	want, err := Generate(helm(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range want {
		have, err := os.ReadFile(filepath.Join(deployDir, name))
		if err != nil || !bytes.Equal(have, data) {
			t.Errorf("deploy/%s is not what the chart says (%v): run `make manifests`", name, err)
		}
	}
	// A file that is not generated any more must not stay.
	err = filepath.WalkDir(deployDir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(deployDir, path)
		if err == nil && want[name] == nil && strings.HasPrefix(read(t, path), origin) {
			t.Errorf("deploy/%s is not generated any more: remove it", name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// What kustomize makes of an overlay is what helm makes of the values that it stands for.
func TestOverlaysAreTheChart(t *testing.T) {
	kubectl := filepath.Join(cmp.Or(os.Getenv("TWILL_KUBE"), "../../.cache/kube"), "kubectl")
	for overlay, values := range Variants {
		t.Run(overlay, func(t *testing.T) {
			cmd := exec.Command(kubectl, "kustomize", filepath.Join(deployDir, "kustomize/overlays", overlay))
			cmd.Stderr = os.Stderr
			built, err := cmd.Output()
			if err != nil {
				t.Fatalf("%v; is kubectl there (make kube)?", err)
			}
			rendered, err := helm(t).Template(values...)
			if err != nil {
				t.Fatal(err)
			}
			if d := diff.Diff(byKey(t, rendered), byKey(t, string(built)), unordered); d != "" {
				t.Errorf("objects (-chart +kustomize):\n%s", d)
			}
		})
	}
}

// unordered compares lists of named things without their order, which has no meaning for them.
var unordered = cmpopts.SortSlices(func(a, b any) bool {
	name := func(v any) string {
		m, _ := v.(map[string]any)
		s, _ := m["name"].(string)
		return s
	}
	return name(a) < name(b)
})

func byKey(t *testing.T, manifests string) map[string]any {
	t.Helper()
	docs, err := Split(manifests)
	if err != nil {
		t.Fatal(err)
	}
	objects := map[string]any{}
	for _, d := range docs {
		var v any
		if err := json.Unmarshal(d.JSON, &v); err != nil {
			t.Fatal(err)
		}
		objects[d.Key()] = v
	}
	return objects
}

// The Dockerfile describes the same image as `make image`.
func TestDockerfile(t *testing.T) {
	dockerfile, makefile := read(t, deployDir+"/Dockerfile"), read(t, "../../Makefile")
	var programs []string
	for line := range strings.Lines(makefile) {
		if list, ok := strings.CutPrefix(line, "PROGRAMS := "); ok {
			programs = strings.Fields(list)
		}
	}
	if len(programs) == 0 {
		t.Fatal("the Makefile names no programs")
	}
	for _, p := range programs {
		if !slices.Contains(strings.Fields(dockerfile), p) {
			t.Errorf("the Dockerfile does not build %s", p)
		}
	}
	for _, line := range []string{`ENTRYPOINT ["/usr/bin/twilld"]`, "ENV PATH=/usr/bin", "FROM scratch"} {
		if !strings.Contains(dockerfile, line+"\n") {
			t.Errorf("the Dockerfile lacks %s", line)
		}
	}
}
