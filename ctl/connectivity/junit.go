package connectivity

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"time"
)

// The elements of JUnit's XML that continuous integration reads (https://github.com/testmoapp/junitxml): a suite for each kind, a case for each question.
type (
	junitSuites struct {
		XMLName  xml.Name     `xml:"testsuites"`
		Name     string       `xml:"name,attr"`
		Tests    int          `xml:"tests,attr"`
		Failures int          `xml:"failures,attr"`
		Skipped  int          `xml:"skipped,attr"`
		Time     string       `xml:"time,attr"` // seconds
		Suites   []junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name      string      `xml:"name,attr"`
		Tests     int         `xml:"tests,attr"`
		Failures  int         `xml:"failures,attr"`
		Skipped   int         `xml:"skipped,attr"`
		Time      string      `xml:"time,attr"`
		Timestamp string      `xml:"timestamp,attr"`
		Cases     []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Class   string        `xml:"classname,attr"`
		Name    string        `xml:"name,attr"`
		Time    string        `xml:"time,attr"`
		Failure *junitFailure `xml:"failure,omitempty"`
		Skipped *junitSkipped `xml:"skipped,omitempty"`
	}
	junitFailure struct {
		Message string `xml:"message,attr"`
		Type    string `xml:"type,attr"`
		Text    string `xml:",chardata"`
	}
	junitSkipped struct {
		Message string `xml:"message,attr"`
	}
)

const junitClass = "twill.connectivity."

// WriteJUnit prints the report as JUnit's XML. What was not run is a skipped case.
func (r *Report) WriteJUnit(w io.Writer) error {
	all := junitSuites{Name: "twillctl connectivity", Tests: r.Total + len(r.NotRun), Failures: r.Failed, Skipped: len(r.NotRun), Time: fmt.Sprintf("%.3f", r.Seconds)}
	for _, k := range kinds {
		if results := r.of(k.kind); results != nil {
			all.Suites = append(all.Suites, r.suite(k.kind, results))
		}
	}
	for _, n := range r.NotRun {
		all.Suites = append(all.Suites, junitSuite{Name: string(n.Part), Tests: 1, Skipped: 1, Time: "0", Timestamp: r.stamp(),
			Cases: []junitCase{{Class: junitClass + string(n.Part), Name: string(n.Part), Time: "0", Skipped: &junitSkipped{n.Why}}}})
	}
	text, err := xml.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	_, err = io.WriteString(w, xml.Header+string(text)+"\n")
	return err
}

func (r *Report) suite(kind Kind, results []Result) junitSuite {
	s := junitSuite{Name: string(kind), Tests: len(results), Timestamp: r.stamp()}
	var took time.Duration
	for _, one := range results {
		c := junitCase{Class: junitClass + string(kind), Time: fmt.Sprintf("%.6f", one.Took.Seconds()),
			Name: fmt.Sprintf("%s to %s, %s", one.Case.From, one.Case.To, one.Case.Question)}
		if !one.OK {
			s.Failures++
			c.Failure = &junitFailure{Message: one.Detail, Type: string(one.Outcome), Text: strings.TrimSpace(one.Why + "\n" + one.Command)}
		}
		took += one.Took
		s.Cases = append(s.Cases, c)
	}
	s.Time = fmt.Sprintf("%.3f", took.Seconds())
	return s
}

func (r *Report) stamp() string { return r.Began.Format("2006-01-02T15:04:05") }
