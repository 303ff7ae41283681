package main

import (
	"cmp"
	"encoding/xml"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Outcomes of a test. Those that the focus or an exclusion left out are not in a report.
const (
	passed  = "passed"
	failed  = "FAILED"
	skipped = "skipped" // by the test itself, which says why
)

type result struct {
	name    string // without what ginkgo adds
	outcome string
	took    time.Duration
	why     string // first line of what a failed or skipped test says
}

type report struct{ results []result }

// readReport reads the JUnit files in a directory.
func readReport(dir string) (*report, error) {
	files, err := filepath.Glob(filepath.Join(dir, "junit*.xml"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("there is no report: the tests ended before they began, see %s", filepath.Join(dir, "ginkgo.log"))
	}
	r := &report{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err == nil {
			err = r.add(text)
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
	}
	slices.SortFunc(r.results, func(a, b result) int { return cmp.Compare(a.name, b.name) })
	return r, nil
}

// add adds the content of a JUnit file as upstream writes it (test/e2e/framework/internal/junit).
func (r *report) add(text []byte) error {
	var file struct {
		Cases []struct {
			Name    string  `xml:"name,attr"`
			Status  string  `xml:"status,attr"`
			Time    float64 `xml:"time,attr"`
			Skipped *struct {
				Message string `xml:"message,attr"`
			} `xml:"skipped"`
			Failure *struct {
				Message string `xml:"message,attr"`
			} `xml:"failure"`
			Error *struct {
				Message string `xml:"message,attr"`
			} `xml:"error"`
		} `xml:"testsuite>testcase"`
	}
	if err := xml.Unmarshal(text, &file); err != nil {
		return err
	}
	for _, c := range file.Cases {
		kind, rest, _ := strings.Cut(c.Name, " ")
		one := result{name: nameOf(rest), took: time.Duration(c.Time * float64(time.Second)), outcome: passed}
		switch {
		case c.Failure != nil:
			one.outcome, one.why = failed, firstLine(c.Failure.Message)
		case c.Error != nil:
			one.outcome, one.why = failed, firstLine(c.Error.Message)
		case c.Skipped != nil && c.Skipped.Message == "skipped":
			continue // the test never ran
		case c.Skipped != nil:
			one.outcome, one.why = skipped, firstLine(strings.TrimPrefix(c.Skipped.Message, "skipped - "))
		}
		// Setting up and tearing down count when they fail.
		if kind != "[It]" {
			if one.outcome != failed {
				continue
			}
			one.name = c.Name
		}
		r.results = append(r.results, one)
	}
	return nil
}

// labels are what ginkgo adds to a name: [sig-network, Conformance].
var labels = regexp.MustCompile(` \[sig-network(, [^\]]*)?\]$`)

func nameOf(text string) string { return labels.ReplaceAllString(text, "") }

func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return line
}

func (r *report) count(outcome string) int {
	n := 0
	for _, one := range r.results {
		if one.outcome == outcome {
			n++
		}
	}
	return n
}

// table returns all results as text.
func (r *report) table(backend string, took time.Duration) string {
	var text strings.Builder
	for _, one := range r.results {
		fmt.Fprintf(&text, "%-7s %6.1fs  %s\n", one.outcome, one.took.Seconds(), one.name)
		if one.why != "" {
			fmt.Fprintf(&text, "%-7s %7s    %s\n", "", "", one.why)
		}
	}
	fmt.Fprintf(&text, "%s: %d passed, %d failed, %d skipped, in %s\n", backend, r.count(passed), r.count(failed), r.count(skipped), took.Round(time.Second))
	return text.String()
}

// verdict returns nil when tests passed and none failed.
func (r *report) verdict() error {
	switch n := r.count(failed); {
	case n > 0:
		return fmt.Errorf("%d tests failed", n)
	case r.count(passed) == 0:
		return errors.New("no test was run")
	}
	return nil
}
