package redact

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"sigs.k8s.io/yaml"
)

// Hidden stands in the place of a secret.
const Hidden = "(hidden)"

// MaxSize is the size in bytes above which Document refuses a document.
const MaxSize = 1 << 20

var userinfo = regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://)[^/@\s"']*(?:/[^/@\s"']*)*@`)

// Document returns a YAML or JSON document as YAML without secrets. The error, which quotes nothing of it, says that it cannot be parsed.
func Document(data []byte) (string, error) {
	if len(data) > MaxSize {
		return "", fmt.Errorf("%d bytes are more than the %d that are shown", len(data), MaxSize)
	}
	var document any
	if yaml.Unmarshal(data, &document) != nil {
		return "", errors.New("it cannot be parsed, and is not shown: it could hold secrets")
	}
	text, err := yaml.Marshal(value(document))
	return string(text), err
}

func value(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, inner := range v {
			shown := Text(key)
			if (isSecret(key) || isSecret(shown)) && inner != nil && inner != "" { // Text may have taken the word that made it a place
				inner = Hidden
			}
			out[shown] = value(inner)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, inner := range v {
			out[i] = value(inner)
		}
		return out
	case string:
		return Text(v)
	}
	return v
}

// Text returns a text without the user names and passwords of URLs; one with a PEM block is hidden as a whole.
func Text(text string) string {
	if strings.Contains(text, "-----BEGIN ") {
		return Hidden
	}
	return userinfo.ReplaceAllString(text, "${1}"+Hidden+"@")
}

// Lines returns the lines of a log without secrets.
func Lines(text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		clean := Text(line)
		out.WriteString(clean)
		if !strings.HasSuffix(clean, "\n") {
			out.WriteString("\n")
		}
	}
	return out.String()
}
