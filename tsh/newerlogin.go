package tsh

import (
	"context"
	"fmt"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/tsh/profile"
	"github.com/threshold-access/threshold/tsh/sshclient"
	"github.com/threshold-access/threshold/tsh/terminal"
)

// newerLoginEvery is how often an open connection looks for a newer login.
const newerLoginEvery = 5 * time.Second

// showNewerLogins shows the node each newer login of the same user that "tsh login" stores meanwhile, until
// ctx ends: the connection then lasts as long as the newer certificate. The node decides by it, and may
// refuse it. A refusal is printed once; the connection goes on by the certificate that it has.
func (a *app) showNewerLogins(
	ctx context.Context, prof *profile.Profile, client *sshclient.Client, verbose bool,
) {
	tick := time.NewTicker(newerLoginEvery)
	defer tick.Stop()
	shown := prof.Info
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		info, err := prof.Home.ReadInfo(prof.Cluster)
		if err != nil || info.User != prof.User || !info.Expires.After(shown.Expires) {
			continue
		}
		newer, err := prof.Home.Load(prof.Cluster)
		if err != nil || newer.SSHCert == nil {
			continue // it is being written, or its roles allow no login any more
		}
		shown = newer.Info
		err = client.ShowCertificate(ctx, newer.SSHKey, newer.SSHCert)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			fmt.Fprintf(a.Stderr, "tsh: the node does not take the newer login: %s\r\n",
				terminal.Clean(fault.Message(err)))
		case verbose:
			until := newer.Expires.Local().Format("15:04")
			fmt.Fprintf(a.Stderr, "tsh: the connection lasts with the newer login, until %s\r\n", until)
		}
	}
}
