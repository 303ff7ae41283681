package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"
)

// addFormat adds -o to a command: table, what more says, yaml or json. Another value ends the command before it does anything. It is the only place
// that adds that flag.
func addFormat(cmd *cobra.Command, output *string, more ...string) {
	formats := slices.Concat([]string{"table"}, more, []string{"yaml", "json"})
	last := len(formats) - 1
	want := strings.Join(formats[:last], ", ") + " or " + formats[last]
	cmd.Flags().StringVarP(output, "output", "o", "table", want)
	completeFlag(cmd, "output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp))
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if !slices.Contains(formats, *output) {
			return fmt.Errorf("--output %q: want %s", *output, want)
		}
		return nil
	}
}

// printAs prints a value as JSON or YAML, where --output asks for it, and else what people calls.
func printAs(w io.Writer, output string, value any, people func() error) error {
	switch output {
	case "json":
		return printJSON(w, value)
	case "yaml":
		return printYAML(w, value)
	}
	return people()
}

func printYAML(w io.Writer, value any) error {
	text, err := yaml.Marshal(value)
	if err != nil {
		return err
	}
	_, err = w.Write(text)
	return err
}

// printers print one value after the other, each as one document.
var printers = map[string]func(io.Writer, any) error{
	"json": printJSON,
	"yaml": func(w io.Writer, value any) error {
		_, err := io.WriteString(w, "---\n")
		return errors.Join(err, printYAML(w, value))
	},
}
