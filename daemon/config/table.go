package config

import (
	"fmt"
	"strings"
)

// Markdown returns the table of all settings for docs/configuration.md.
func Markdown() string {
	var b strings.Builder
	b.WriteString("| flag and YAML key | environment | default | meaning |\n|---|---|---|---|\n")
	for _, k := range keys() {
		env, shown := "`"+k.env()+"`", k.shownDefault()
		if k.flagOnly {
			env = "flag only"
		}
		if k.derived == "" && shown != "" {
			shown = "`" + shown + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", k.name, env, shown, strings.ReplaceAll(k.usage, "|", "\\|"))
	}
	return b.String()
}
