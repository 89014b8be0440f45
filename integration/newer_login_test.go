//go:build integration

package integration

import (
	"strings"
	"testing"

	"github.com/threshold-access/threshold/integration/harness"
)

// A user logs in again while sessions run. A session of tsh then lasts with the newer certificate. One of
// stock ssh, which cannot show it, ends with the certificate that opened it, as does one of tsh without a new
// login.
func TestANewLoginExtendsARunningSession(t *testing.T) {
	t.Parallel()
	f := newLimitFixture(t, "web")
	f.setRoleOptions("cert_ttl: 1m")
	short, alone := harness.NewClient(t), harness.NewClient(t)
	short.LoginAt(f.server.Proxy, f.server, f.alice)
	config := f.sshConfig(short)
	stock := harness.StartCmd(t, f.ssh(config, f.host(), "echo on; exec sleep 1000"))
	extended := harness.StartCmd(t, short.Command("ssh", "web", "echo on; sleep 80; echo still on"))
	stock.WaitFor("on")
	extended.WaitFor("on")
	alone.LoginAt(f.server.Proxy, f.server, f.alice)
	ends := harness.StartCmd(t, alone.Command("ssh", "web", "echo on; exec sleep 1000"))
	ends.WaitFor("on")

	f.setRoleOptions("cert_ttl: 10m")
	short.LoginAt(f.server.Proxy, f.server, f.alice)
	ending := map[string]*harness.Process{"stock ssh": stock, "tsh without a new login": ends}
	for name, session := range ending {
		err := session.Wait()
		if session.Cmd.ProcessState.ExitCode() != lockedStatus ||
			!strings.Contains(session.Output(), "ended with its certificate") {
			t.Errorf("%s: got %v, want an end with the certificate:\n%s", name, err, session.Output())
		}
	}
	extended.WaitFor("still on")
	if err := extended.Wait(); err != nil {
		t.Errorf("got %v, want the session of tsh to end by itself:\n%s", err, extended.Output())
	}
}
