package process_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/node/account/accounttest"
	"github.com/threshold-access/threshold/node/process"
)

// The client's variables replace the machine's, those that identify the account and session replace both, and
// nothing of the agent's environment gets through.
func TestEnvironmentOfMachineAndClient(t *testing.T) {
	t.Parallel()
	db := withFiles(t, map[string]string{
		"etc/default/locale": "#  comment\nLANG=ko_KR.UTF-8\nLC_TIME=\"C.UTF-8\"\n",
		"etc/environment": strings.Join([]string{
			`PATH="/opt/bin:/usr/bin:/bin"`, "export http_proxy=http://proxy.example:3128/",
			"LD_PRELOAD=/tmp/x.so", "SSH_CLIENT=1.2.3.4 5 6", "THRESHOLD_USER=mallory", "USER=mallory",
			"HOME=/tmp", "TERM=x", "1X=no", "A B=no",
		}, "\n"),
	})
	acc := accounttest.Own(t)
	acc.Shell, acc.Home = "/bin/sh", "/"
	program, err := process.Start(db, acc, process.Spec{
		Kind:       process.Exec,
		Command:    "env",
		Env:        process.Env{"LANG": "C"},
		User:       "alice@example.com",
		ClientAddr: "192.0.2.7:4711",
		LocalAddr:  "[2001:db8::1]:52000",
	})
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	program.Run(t.Context(), process.Streams{In: strings.NewReader(""), Out: &out, Err: &out})
	got := strings.Split(strings.TrimSpace(out.String()), "\n")
	for _, want := range []string{
		"LANG=C",
		"LC_TIME=C.UTF-8",
		"PATH=/opt/bin:/usr/bin:/bin",
		"http_proxy=http://proxy.example:3128/",
		"HOME=/",
		"USER=" + string(acc.Login),
		"MAIL=/var/mail/" + string(acc.Login),
		"THRESHOLD_USER=alice@example.com",
		"SSH_CLIENT=192.0.2.7 4711 52000",
		"SSH_CONNECTION=192.0.2.7 4711 2001:db8::1 52000",
	} {
		if !slices.Contains(got, want) {
			t.Errorf("got no %q in %q", want, got)
		}
	}
	for _, v := range got {
		name, _, _ := strings.Cut(v, "=")
		if strings.HasPrefix(name, "LD_") ||
			slices.Contains([]string{"TERM", "TZ", "1X", "A B", "SSH_TTY"}, name) {
			t.Errorf("got %q set, want it left out", v)
		}
	}
}
