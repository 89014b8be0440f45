package harness

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Systemd does in a room what systemctl asks for, as far as a guide needs: no service manager runs there. It
// reads the unit that is installed and runs its ExecStartPre and ExecStart as its User with its
// StateDirectory and privileges, waits for READY=1, and stops with SIGTERM. The unit's sandbox is not made;
// "systemd-analyze" looks at that elsewhere.
type Systemd struct {
	container *Container
	t         testing.TB
	running   map[string]*service
}

type service struct {
	process *Process
	notify  *net.UnixConn
	status  string // what it told the manager last
}

// Systemd is the room's.
func (r *Container) Systemd() *Systemd {
	return &Systemd{container: r, t: r.t, running: map[string]*service{}}
}

// Do is systemctl with these arguments.
func (s *Systemd) Do(args ...string) {
	s.t.Helper()
	name := args[len(args)-1]
	switch strings.Join(args[:len(args)-1], " ") {
	case "enable --now", "start":
		s.start(name)
	case "restart":
		s.stop(name)
		s.start(name)
	case "stop":
		s.stop(name)
	default:
		s.t.Fatalf("systemctl %v is not known here", args)
	}
}

// Log is what the service printed since it was started last.
func (s *Systemd) Log(name string) string { return s.running[name].process.Output() }

func (s *Systemd) start(name string) {
	s.t.Helper()
	u := s.unit(name)
	owner := u.value("User", "root")
	for _, dir := range u["StateDirectory"] {
		s.container.Run("install", "-d", "-o", owner, "-g", u.value("Group", "root"), "-m", u.value("StateDirectoryMode", "0755"), "/var/lib/"+dir).
			OK(s.t)
	}
	for _, pre := range u["ExecStartPre"] {
		s.container.Run(append(u.privilegeCommand(), strings.Fields(pre)...)...).OK(s.t)
	}
	socket := "/run/notify-" + name
	// The folder is a file system of the room's own, without links.
	_ = s.container.root.Remove(socket[1:])
	listener, err := net.ListenUnixgram(
		"unixgram",
		&net.UnixAddr{Name: filepath.Join("/proc", s.container.Pid, "root", socket), Net: "unixgram"},
	)
	if err == nil {
		err = s.container.root.Chmod(socket[1:], 0o777)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	env := []string{"NOTIFY_SOCKET=" + socket}
	if d, err := time.ParseDuration(strings.Replace(u.value("WatchdogSec", "0s"), "min", "m", 1)); err == nil &&
		d > 0 {
		env = append(env, fmt.Sprintf("WATCHDOG_USEC=%d", d.Microseconds()))
	}
	command := append(
		[]string{"sh", "-c", `echo $$ >"$0"; exec "$@"`, "/run/" + name + ".pid"},
		append(u.privilegeCommand(), strings.Fields(u.value("ExecStart", ""))...)...)
	svc := &service{process: s.container.Start(env, command...), notify: listener}
	s.running[name] = svc
	s.t.Cleanup(func() { listener.Close() })
	if err := svc.waitFor("READY=1"); err != nil {
		s.t.Fatalf("%s did not get ready: %v\n%s", name, err, svc.process.Output())
	}
}

// waitFor reads what the service tells its manager.
func (svc *service) waitFor(want string) error {
	if err := svc.notify.SetReadDeadline(time.Now().Add(Timeout)); err != nil {
		return err
	}
	buf := make([]byte, 4096)
	for {
		n, err := svc.notify.Read(buf)
		if err != nil {
			return err
		}
		for line := range strings.SplitSeq(string(buf[:n]), "\n") {
			if status, ok := strings.CutPrefix(line, "STATUS="); ok {
				svc.status = status
			}
			if line == want {
				return nil
			}
		}
	}
}

func (s *Systemd) stop(name string) {
	s.t.Helper()
	svc := s.running[name]
	if svc == nil {
		s.t.Fatalf("%s does not run", name)
	}
	pid := strings.TrimSpace(s.container.Run("cat", "/run/"+name+".pid").OK(s.t))
	s.container.Run("kill", "-TERM", pid).OK(s.t)
	if err := errors.Join(svc.waitFor("STOPPING=1"), svc.process.Wait()); err != nil {
		s.t.Errorf("%s ended with %v, want a clean end it tells of\n%s", name, err, svc.process.Output())
	}
	delete(s.running, name)
}

// unit is the keys of a unit's file, each with its values.
type unit map[string][]string

func (s *Systemd) unit(name string) unit {
	s.t.Helper()
	u := unit{}
	for line := range strings.Lines(s.container.Run("cat", "/usr/lib/systemd/system/"+name+".service").OK(s.t)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(key, "#") {
			u[key] = append(u[key], value)
		}
	}
	return u
}

func (u unit) value(key, otherwise string) string {
	if len(u[key]) == 0 {
		return otherwise
	}
	return u[key][0]
}

// privilegeCommand is the command that takes on the unit's account and privileges.
func (u unit) privilegeCommand() []string {
	user := u.value("User", "")
	if user == "" {
		return nil
	}
	caps := "-all"
	for c := range strings.FieldsSeq(u.value("AmbientCapabilities", "")) {
		caps += ",+" + strings.ToLower(strings.TrimPrefix(c, "CAP_"))
	}
	return []string{
		"setpriv",
		"--reuid=" + user,
		"--regid=" + u.value("Group", user),
		"--init-groups",
		"--no-new-privs",
		"--inh-caps=" + caps,
		"--ambient-caps=" + caps,
		"--bounding-set=" + caps,
	}
}
