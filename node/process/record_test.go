package process_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/threshold-access/threshold/node/account"
	"github.com/threshold-access/threshold/node/account/accounttest"
	"github.com/threshold-access/threshold/node/process"
	"github.com/threshold-access/threshold/node/pty"
)

// emptyRecords makes empty records of a machine and returns its accounts.
func emptyRecords(t *testing.T, files map[string]string) account.Database {
	t.Helper()
	empty := map[string]string{"run/utmp": "", "var/log/wtmp": "", "var/log/lastlog": ""}
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.Local)
	return account.Database{
		Root: accounttest.WriteFiles(t, mergeFiles(empty, files)),
		UID:  uint32(os.Geteuid()),
		Now:  func() time.Time { at = at.Add(time.Minute); return at },
	}
}

func terminalRequest(t *testing.T) *pty.Request {
	t.Helper()
	r, err := pty.ParseRequest(
		append([]byte("\x00\x00\x00\x05vt100\x00\x00\x00\x50\x00\x00\x00\x18"), make([]byte, 12)...),
	)
	if err != nil {
		t.Fatal(err)
	}
	return &r
}

// runOnTerminal runs a login shell on a terminal and returns what the person saw.
func runOnTerminal(t *testing.T, a account.Database, spec process.Spec, typed string) string {
	t.Helper()
	acc := accounttest.Own(t)
	acc.Shell, acc.Home = "/bin/sh", filepath.Join(a.Root, "home")
	spec.Terminal, spec.ClientAddr, spec.LocalAddr = terminalRequest(t), "192.0.2.7:4711", "198.51.100.9:22"
	p, err := process.Start(a, acc, spec)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	p.Run(t.Context(), process.Streams{In: strings.NewReader(typed), Out: &out, Err: &out})
	return out.String()
}

func TestLoginShellShowsMotdAndLastLogin(t *testing.T) {
	a := emptyRecords(
		t,
		map[string]string{
			"etc/motd":         "Welcome\nto web-1.\n",
			"run/motd.dynamic": "3 updates\n",
			"home/x":           "",
		},
	)
	shell := process.Spec{Kind: process.Shell}
	if got := runOnTerminal(t, a, shell, "exit\n"); !strings.HasPrefix(
		got,
		"3 updates\r\nWelcome\r\nto web-1.\r\n",
	) ||
		strings.Contains(got, "Last login") {
		t.Errorf("got %q, want the messages of the day and no login before", got)
	}
	if got := runOnTerminal(t, a, shell, "exit\n"); os.Geteuid() == 0 &&
		!regexp.MustCompile(`to web-1\.\r\nLast login: Sun Mar  1 12:\d\d:00 2026 from 192\.0\.2\.7\r\n`).
			MatchString(got) {
		t.Errorf("got %q, want the last login after the messages", got)
	}
	if got := runOnTerminal(t, a, process.Spec{Kind: process.Exec, Command: "echo hi"}, ""); got != "hi\r\n" {
		t.Errorf("got %q for a command, want its output alone", got)
	}
	if err := os.WriteFile(filepath.Join(a.Root, "home/.hushlogin"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := runOnTerminal(t, a, shell, "exit\n"); strings.Contains(got, "Welcome") ||
		strings.Contains(got, "Last login") {
		t.Errorf("got %q with a .hushlogin, want no greeting", got)
	}
}

func TestSessionsAreInUtmpAndWtmp(t *testing.T) {
	if os.Geteuid() != 0 {
		return // only root keeps them
	}
	a := emptyRecords(t, nil)
	utmp, wtmp := filepath.Join(a.Root, "run/utmp"), filepath.Join(a.Root, "var/log/wtmp")
	read := func(name string, args ...string) string {
		out, err := exec.Command(name, args...).Output()
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		return string(out)
	}
	seen := runOnTerminal(t, a, process.Spec{Kind: process.Shell}, "who "+utmp+"; echo tty=$SSH_TTY; exit\n")
	row := regexp.MustCompile(`root +(pts/\d+) +(?:2026-03-01|Mar  1) 12:\d\d \(192\.0\.2\.7\)`).
		FindStringSubmatch(seen)
	if row == nil || !strings.Contains(seen, "tty=/dev/"+row[1]) {
		t.Fatalf("got %q, want the session in who, and its terminal in SSH_TTY", seen)
	}
	if got := read("who", utmp); got != "" {
		t.Errorf("got %q after the end, want nobody", got)
	}
	if got := read("last", "-f", wtmp); !regexp.MustCompile(`root +` + row[1] + ` +192\.0\.2\.7 +Sun Mar  1 12:\d\d - 12:\d\d`).
		MatchString(got) {
		t.Errorf("got %q of last, want the login with its end", got)
	}
	ttys := map[string]bool{row[1]: true} // others on this machine open and close terminals too
	for range 3 {
		ttys[strings.TrimPrefix(strings.TrimSpace(runOnTerminal(t, a, process.Spec{Kind: process.Exec, Command: "tty"}, "")), "/dev/")] = true
	}
	one := map[string]int{"amd64": 384, "arm64": 400}[runtime.GOARCH]
	if all, err := os.ReadFile(utmp); err != nil || len(all) != one*len(ttys) {
		t.Errorf("got %d bytes, %v, want one entry for each of %v", len(all), err, ttys)
	}
	before, _ := os.ReadFile(wtmp)
	run(t, accounttest.Own(t), process.Spec{Kind: process.Exec, Command: "true"}, "")
	if after, _ := os.ReadFile(wtmp); !bytes.Equal(before, after) {
		t.Error("got a record of a session without a terminal, want none")
	}
}

func TestLockedOrMissingRecordsDoNotStopSessions(t *testing.T) {
	a := emptyRecords(t, nil)
	if err := os.Remove(filepath.Join(a.Root, "run/utmp")); err != nil {
		t.Fatal(err)
	}
	held, err := os.Open(filepath.Join(a.Root, "var/log/wtmp")) // as anyone who may read it
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := unix.FcntlFlock(held.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_RDLCK}); err != nil {
		t.Fatal(err)
	}
	if got := runOnTerminal(t, a, process.Spec{Kind: process.Exec, Command: "echo in"}, ""); got != "in\r\n" {
		t.Errorf("got %q, want the command to run", got)
	}
	if _, err := os.Stat(filepath.Join(a.Root, "run/utmp")); err == nil {
		t.Error("got a record made, want a machine without one left so")
	}
}
