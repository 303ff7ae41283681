package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// checkOutput returns an error unless --output is one of table, yaml, json and what else the command has.
func checkOutput(output string, more ...string) error {
	formats := slices.Concat([]string{"table"}, more, []string{"yaml"})
	if slices.Contains(formats, output) || output == "json" {
		return nil
	}
	return fmt.Errorf("--output %q: want %s or json", output, strings.Join(formats, ", "))
}

// printAs prints a value as JSON or YAML, where --output asks for it, and else what people calls.
func printAs(w io.Writer, output string, value any, people func() error) error {
	switch output {
	case "json":
		return printJSON(w, value)
	case "yaml":
		text, err := yaml.Marshal(value)
		if err != nil {
			return err
		}
		_, err = w.Write(text)
		return err
	}
	return people()
}
