package deploy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"sigs.k8s.io/yaml"
)

// Variants are the values, as helm's --set takes them, for which manifests are generated.
var Variants = map[string][]string{
	"vxlan":      nil,
	"bgp":        {"backend=bgp"},
	"monitoring": {"monitoring.enabled=true"},
	"policy":     {"policy.enabled=true"},
}

// Generated are files by their names below deploy/.
type Generated map[string][]byte

// The headers of generated files.
const (
	origin       = "# Generated from the chart by `make manifests`: change it there.\n"
	singleHeader = "# Twill with the backend vxlan, for kubectl apply. docs/kubernetes.md says what to set first in a cluster without kube-proxy.\n" + origin
)

// Generate renders every variant with the chart in deploy/chart/twill.
func Generate(helm Helm) (Generated, error) {
	docs := map[string][]Document{}
	for variant, values := range Variants {
		text, err := helm.Template(values...)
		if err != nil {
			return nil, fmt.Errorf("render %s: %w", variant, err)
		}
		if docs[variant], err = Split(text); err != nil {
			return nil, fmt.Errorf("render %s: %w", variant, err)
		}
	}
	vxlan := docs["vxlan"]
	isSettings := func(d Document) bool { return d.Key() == "ConfigMap/twill" }
	base := slices.DeleteFunc(slices.Clone(vxlan), isSettings)
	g := Generated{
		"twill.yaml":                  join(singleHeader, vxlan),
		"kustomize/base/objects.yaml": join(origin, base),
	}
	for dir, of := range map[string]struct{ from, to []Document }{
		"kustomize/overlays/vxlan":        {base, vxlan},
		"kustomize/overlays/bgp":          {base, docs["bgp"]},
		"kustomize/components/monitoring": {vxlan, docs["monitoring"]},
		"kustomize/components/policy":     {vxlan, docs["policy"]},
	} {
		if err := g.difference(dir, of.from, of.to); err != nil {
			return nil, fmt.Errorf("%s: %w", dir, err)
		}
	}
	return g, nil
}

// difference adds the files that lead from one list of objects to another: one with the objects that are new, one with patches.
func (g Generated) difference(dir string, from, to []Document) error {
	before := map[string]Document{}
	for _, d := range from {
		before[d.Key()] = d
	}
	var added, patches []Document
	for _, d := range to {
		old, ok := before[d.Key()]
		delete(before, d.Key())
		if !ok {
			added = append(added, d)
			continue
		}
		patch, err := patchFor(old, d)
		if err != nil {
			return err
		}
		if patch != nil {
			patches = append(patches, *patch)
		}
	}
	if len(before) > 0 {
		return fmt.Errorf("%d objects are gone, which no file of kustomize can say", len(before))
	}
	if len(added) > 0 {
		g[dir+"/objects.yaml"] = join(origin, added)
	}
	if len(patches) > 0 {
		g[dir+"/patches.yaml"] = join(origin, patches)
	}
	return nil
}

// patchFor returns the strategic merge patch that makes the new object of the old one, or nil when they are the same.
func patchFor(old, now Document) (*Document, error) {
	if bytes.Equal(old.JSON, now.JSON) {
		return nil, nil
	}
	switch now.Kind {
	case "DaemonSet":
	case "ClusterRole":
		return &now, nil // a patch replaces the list of rules, so it has all of them
	default:
		return nil, fmt.Errorf("%s differs, and nothing but DaemonSets and ClusterRoles is expected to", now.Key())
	}
	diff, err := strategicpatch.CreateTwoWayMergePatch(old.JSON, now.JSON, appsv1.DaemonSet{})
	if err != nil {
		return nil, fmt.Errorf("patch for %s: %w", now.Key(), err)
	}
	var patch map[string]any
	if err := json.Unmarshal(diff, &patch); err != nil {
		return nil, err
	}
	withoutOrder(patch)
	patch["apiVersion"], patch["kind"] = "apps/v1", now.Kind
	patch["metadata"] = map[string]string{"name": now.Metadata.Name, "namespace": now.Metadata.Namespace}
	text, err := yaml.Marshal(patch)
	if err != nil {
		return nil, err
	}
	return &Document{Text: string(text)}, nil
}

// withoutOrder removes the directives for the order of lists, which kustomize does not know; the order of what is added is of no
// importance.
func withoutOrder(v any) {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			if strings.HasPrefix(key, "$setElementOrder/") {
				delete(v, key)
				continue
			}
			withoutOrder(value)
		}
	case []any:
		for _, e := range v {
			withoutOrder(e)
		}
	}
}

// Write writes the files below dir, which is deploy/.
func (g Generated) Write(dir string) error {
	for name, data := range g {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func join(header string, docs []Document) []byte {
	var out bytes.Buffer
	out.WriteString(header)
	for i, d := range docs {
		if i > 0 {
			out.WriteString("---\n")
		}
		out.WriteString(strings.TrimSpace(d.Text) + "\n")
	}
	return out.Bytes()
}
