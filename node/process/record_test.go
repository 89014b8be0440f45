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

// withRecords makes a database whose machine has empty login records besides the files. Its clock advances by
// a minute each time it is read.
func withRecords(t *testing.T, files map[string]string) account.Database {
	t.Helper()
	db := withFiles(t, mergeFiles(
		map[string]string{"run/utmp": "", "var/log/wtmp": "", "var/log/lastlog": ""}, files))
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.Local)
	db.Now = func() time.Time { at = at.Add(time.Minute); return at }
	return db
}

func terminalRequest(t *testing.T) *pty.Request {
	t.Helper()
	r, err := pty.ParseRequest([]byte("\x00\x00\x00\x05vt100" + // type
		"\x00\x00\x00\x50\x00\x00\x00\x18" + // 80 columns, 24 rows
		"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")) // no size in pixels, no modes
	if err != nil {
		t.Fatal(err)
	}
	return &r
}

// runOnTerminal runs a program on a terminal and returns what the user sees.
func runOnTerminal(t *testing.T, db account.Database, spec process.Spec, typed string) string {
	t.Helper()
	acc := accounttest.Own(t)
	acc.Shell, acc.Home = "/bin/sh", filepath.Join(db.Root, "home")
	spec.Terminal, spec.ClientAddr, spec.LocalAddr = terminalRequest(t), "192.0.2.7:4711", "198.51.100.9:22"
	p, err := process.Start(db, acc, spec)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	p.Run(t.Context(), process.Streams{In: strings.NewReader(typed), Out: &out, Err: &out})
	return out.String()
}

// A login shell shows the messages of the day and the last login, as sshd does. A command shows neither, nor
// does an account with .hushlogin.
func TestLoginShellShowsMotdAndLastLogin(t *testing.T) {
	t.Parallel()
	db := withRecords(t, map[string]string{
		"etc/motd":         "Welcome\nto web-1.\n",
		"run/motd.dynamic": "3 updates\n",
		"home/x":           "",
	})
	shell := process.Spec{Kind: process.Shell}
	first := runOnTerminal(t, db, shell, "exit\n")
	if !strings.HasPrefix(first, "3 updates\r\nWelcome\r\nto web-1.\r\n") ||
		strings.Contains(first, "Last login") {
		t.Errorf("got %q, want the messages of the day and no last login", first)
	}
	second := runOnTerminal(t, db, shell, "exit\n")
	last := regexp.MustCompile(`to web-1\.\r\nLast login: Sun Mar  1 12:\d\d:00 2026 from 192\.0\.2\.7\r\n`)
	if os.Geteuid() == 0 && !last.MatchString(second) {
		t.Errorf("got %q, want the last login after the messages", second)
	}
	if got := runOnTerminal(t, db, command("echo hi"), ""); got != "hi\r\n" {
		t.Errorf("got %q for a command, want only its output", got)
	}
	if err := os.WriteFile(filepath.Join(db.Root, "home/.hushlogin"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	hushed := runOnTerminal(t, db, shell, "exit\n")
	if strings.Contains(hushed, "Welcome") || strings.Contains(hushed, "Last login") {
		t.Errorf("got %q with a .hushlogin, want no greeting", hushed)
	}
}

// who(1) and last(1) show a session with a terminal, with its client and its end. A session without a
// terminal leaves no record.
func TestSessionsAreInUtmpAndWtmp(t *testing.T) {
	if os.Geteuid() != 0 {
		return // only root writes login records
	}
	t.Parallel()
	db := withRecords(t, nil)
	utmp, wtmp := filepath.Join(db.Root, "run/utmp"), filepath.Join(db.Root, "var/log/wtmp")
	read := func(name string, args ...string) string {
		out, err := exec.Command(name, args...).Output()
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		return string(out)
	}
	shell := process.Spec{Kind: process.Shell}
	screen := runOnTerminal(t, db, shell, "who "+utmp+"; echo tty=$SSH_TTY; exit\n")
	who := regexp.MustCompile(`root +(pts/\d+) +(?:2026-03-01|Mar  1) 12:\d\d \(192\.0\.2\.7\)`)
	row := who.FindStringSubmatch(screen)
	if row == nil || !strings.Contains(screen, "tty=/dev/"+row[1]) {
		t.Fatalf("got %q, want the session in who, and its terminal in SSH_TTY", screen)
	}
	if got := read("who", utmp); got != "" {
		t.Errorf("got %q from who after the end, want no session", got)
	}
	last := regexp.MustCompile(`root +` + row[1] + ` +192\.0\.2\.7 +Sun Mar  1 12:\d\d - 12:\d\d`)
	if got := read("last", "-f", wtmp); !last.MatchString(got) {
		t.Errorf("got %q from last, want the login with its end", got)
	}
	ttys := map[string]bool{row[1]: true} // the kernel may give each session another one
	for range 3 {
		tty := strings.TrimSpace(runOnTerminal(t, db, command("tty"), ""))
		ttys[strings.TrimPrefix(tty, "/dev/")] = true
	}
	entrySize := map[string]int{"amd64": 384, "arm64": 400}[runtime.GOARCH]
	if all, err := os.ReadFile(utmp); err != nil || len(all) != entrySize*len(ttys) {
		t.Errorf("got %d bytes, %v, want one entry for each of %v", len(all), err, ttys)
	}
	before, _ := os.ReadFile(wtmp)
	runCommand(t, db, accounttest.Own(t), "true")
	if after, _ := os.ReadFile(wtmp); !bytes.Equal(before, after) {
		t.Error("got a record of a session without a terminal, want none")
	}
}

// A session starts although another account has locked the records or a file is missing, and no file is
// created.
func TestLockedOrMissingRecordsDoNotStopSessions(t *testing.T) {
	t.Parallel()
	db := withRecords(t, nil)
	if err := os.Remove(filepath.Join(db.Root, "run/utmp")); err != nil {
		t.Fatal(err)
	}
	reader, err := os.Open(filepath.Join(db.Root, "var/log/wtmp")) // as any account that may read it
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if err := unix.FcntlFlock(reader.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_RDLCK}); err != nil {
		t.Fatal(err)
	}
	if got := runOnTerminal(t, db, command("echo in"), ""); got != "in\r\n" {
		t.Errorf("got %q, want the command to run", got)
	}
	if _, err := os.Stat(filepath.Join(db.Root, "run/utmp")); err == nil {
		t.Error("got utmp created, want it left missing")
	}
}
