package deploy

import (
	"fmt"
	"regexp"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// Document is one object of a list of manifests.
type Document struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	} `json:"metadata"`

	Text string `json:"-"` // YAML, with its comments
	JSON []byte `json:"-"` // the same, in the order of its keys
}

// Key names the object among the others of a list.
func (d Document) Key() string { return d.Kind + "/" + d.Metadata.Name }

var (
	divider = regexp.MustCompile(`(?m)^---\s*$`)
	source  = regexp.MustCompile(`(?m)^# Source: .*\n`) // by which helm names a template
)

// Split takes a list of manifests apart.
func Split(manifests string) ([]Document, error) {
	var docs []Document
	for _, text := range divider.Split(manifests, -1) {
		text = strings.TrimSpace(source.ReplaceAllString(text, "")) + "\n" // which the last line of a block needs
		d := Document{Text: text}
		var err error
		if d.JSON, err = yaml.YAMLToJSONStrict([]byte(text)); err != nil {
			return nil, fmt.Errorf("%w in\n%s", err, text)
		}
		if string(d.JSON) == "null" { // nothing but comments
			continue
		}
		if err := yaml.Unmarshal([]byte(text), &d); err != nil {
			return nil, err
		}
		if d.Kind == "" || d.Metadata.Name == "" {
			return nil, fmt.Errorf("no object with a kind and a name:\n%s", text)
		}
		docs = append(docs, d)
	}
	return docs, nil
}
