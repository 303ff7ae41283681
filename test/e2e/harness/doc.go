// Package harness is the set-up that the suites below test/e2e share.
//
//	TestMain ── Programs: root, tools of the machine, TWILL_BIN ── Run: the tests, then nothing of this run may be left
//	   │
//	   └── each test: NewLab(t, lab.Options{Name: Unique(runName), ...}) ── Shell, Within, ServeTCP ... ── taken down in t.Cleanup
//
// One lab, walked through: RunName("pol") is pol-4711- in process 4711, and Unique makes pol-4711-1 of it, so that two runs, and tests side by
// side, can share the machine. NewLab says nothing while all is well. When the test ends, the lab is taken down; when it failed, what its daemons
// said last is printed before. Run looks at last for namespaces and directories that begin with pol-4711-.
//
// What only looks alike stays with its suite: how long a suite is patient, what it asks with its packets, and conditions whose attempts
// end with a deadline (kube).
package harness
