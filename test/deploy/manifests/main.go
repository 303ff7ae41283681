// Program manifests writes the files in deploy/ that are generated from the chart. Run it in the checkout's root.
package main

import (
	"fmt"
	"os"

	"github.com/twill-cni/twill/test/deploy"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "manifests:", err)
		os.Exit(1)
	}
}

func run() error {
	helm, err := deploy.NewHelm(".")
	if err != nil {
		return err
	}
	files, err := deploy.Generate(helm)
	if err != nil {
		return err
	}
	return files.Write("deploy")
}
