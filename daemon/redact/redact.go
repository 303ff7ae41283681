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

var (
	secretWords = []string{"password", "passwd", "passphrase", "secret", "token", "credential", "auth", "psk", "certificate-data", "authority-data", "bearer", "cookie"}
	placeWords  = []string{"file", "path", "dir", "name"} // a key that ends so says where a secret is, not what
	userinfo    = regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://)[^/@\s"']*(?:/[^/@\s"']*)*@`)
)

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
			if isSecret(key) && inner != nil && inner != "" {
				inner = Hidden
			}
			out[Text(key)] = value(inner)
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

// isSecret reports whether a key's value is to be hidden. Rather one too many: nobody misses the value of an unknown key that has such a name.
func isSecret(key string) bool {
	key = strings.ToLower(key)
	for _, word := range placeWords {
		if strings.HasSuffix(key, word) {
			return false
		}
	}
	if key == "key" || strings.HasSuffix(key, "_key") || strings.HasSuffix(key, "-key") || strings.HasSuffix(key, "privatekey") || strings.HasSuffix(key, "key-data") {
		return true
	}
	for _, word := range secretWords {
		if strings.Contains(key, word) {
			return true
		}
	}
	return false
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
