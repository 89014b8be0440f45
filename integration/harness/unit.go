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

// Systemd starts and stops the services of a container as systemd would, because no service manager runs in
// it. It reads an installed unit file, creates the StateDirectory, runs ExecStartPre and ExecStart as the
// unit's User with its capabilities, waits for READY=1, and stops a service with SIGTERM. It ignores the
// sandbox settings of the unit; another test has systemd-analyze check those.
type Systemd struct {
	container *Container
	t         testing.TB
	running   map[string]*service
}

// service is a running service.
type service struct {
	process *Process
	notify  *net.UnixConn // its NOTIFY_SOCKET (sd_notify(3))
	status  string        // the STATUS that it sent last
}

// Systemd returns a Systemd for the container, in which no service runs yet.
func (c *Container) Systemd() *Systemd {
	return &Systemd{container: c, t: c.t, running: map[string]*service{}}
}

// Do does what systemctl does with these arguments: start, stop, restart or "enable --now".
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
		s.t.Fatalf("systemctl %v is not supported here", args)
	}
}

// Log is what the service has printed since its last start.
func (s *Systemd) Log(name string) string { return s.running[name].process.Output() }

// start starts a service and waits until it sends READY=1. It fails the test if that does not come in time.
func (s *Systemd) start(name string) {
	s.t.Helper()
	u := s.unit(name)
	owner := u.value("User", "root")
	for _, dir := range u["StateDirectory"] {
		group, mode := u.value("Group", "root"), u.value("StateDirectoryMode", "0755")
		s.container.Run("install", "-d", "-o", owner, "-g", group, "-m", mode, "/var/lib/"+dir).OK(s.t)
	}
	for _, pre := range u["ExecStartPre"] {
		s.container.Run(append(u.privilegeCommand(), strings.Fields(pre)...)...).OK(s.t)
	}
	socket := "/run/notify-" + name
	// The test listens on a socket in the container. /run is a file system of the container's own, without
	// symbolic links, so the path by /proc cannot lead to a file of this machine.
	_ = s.container.root.Remove(socket[1:]) // of an earlier start
	path := filepath.Join("/proc", s.container.Pid, "root", socket)
	listener, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err == nil {
		err = s.container.root.Chmod(socket[1:], 0o777) // the service may run as another account
	}
	if err != nil {
		s.t.Fatal(err)
	}
	env := []string{"NOTIFY_SOCKET=" + socket}
	watchdog := strings.Replace(u.value("WatchdogSec", "0s"), "min", "m", 1)
	if d, err := time.ParseDuration(watchdog); err == nil && d > 0 {
		env = append(env, fmt.Sprintf("WATCHDOG_USEC=%d", d.Microseconds()))
	}
	// The process id, as the container numbers it, is written for stop.
	command := []string{"sh", "-c", `echo $$ >"$0"; exec "$@"`, "/run/" + name + ".pid"}
	command = append(command, u.privilegeCommand()...)
	command = append(command, strings.Fields(u.value("ExecStart", ""))...)
	svc := &service{process: s.container.Start(env, command...), notify: listener}
	s.running[name] = svc
	s.t.Cleanup(func() { listener.Close() })
	if err := svc.waitFor("READY=1"); err != nil {
		s.t.Fatalf("%s did not become ready: %v\n%s", name, err, svc.process.Output())
	}
}

// waitFor reads the notifications of the service until one has the line want. It stores the last STATUS
// before that. It returns an error after Timeout.
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

// stop sends SIGTERM to a service. It fails the test unless the service sends STOPPING=1 and ends with exit
// status 0.
func (s *Systemd) stop(name string) {
	s.t.Helper()
	svc := s.running[name]
	if svc == nil {
		s.t.Fatalf("%s does not run", name)
	}
	pid := strings.TrimSpace(s.container.Run("cat", "/run/"+name+".pid").OK(s.t))
	s.container.Run("kill", "-TERM", pid).OK(s.t)
	if err := errors.Join(svc.waitFor("STOPPING=1"), svc.process.Wait()); err != nil {
		s.t.Errorf("%s ended with %v, want STOPPING=1 and exit status 0\n%s", name, err, svc.process.Output())
	}
	delete(s.running, name)
}

// unit is a unit file: the values of each key, whichever section it is in.
type unit map[string][]string

// unit reads the installed unit file of a service.
func (s *Systemd) unit(name string) unit {
	s.t.Helper()
	u := unit{}
	file := s.container.Run("cat", "/usr/lib/systemd/system/"+name+".service").OK(s.t)
	for line := range strings.Lines(file) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(key, "#") {
			u[key] = append(u[key], value)
		}
	}
	return u
}

// value returns the first value of the key, or byDefault if there is none.
func (u unit) value(key, byDefault string) string {
	if len(u[key]) == 0 {
		return byDefault
	}
	return u[key][0]
}

// privilegeCommand returns the words to put in front of a command that shall run with the account and the
// capabilities of the unit. They are none for a unit without User, which runs as root.
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
