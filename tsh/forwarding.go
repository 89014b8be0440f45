package tsh

import (
	"fmt"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/tsh/forward"
)

// forwards reads what is to be forwarded.
func (a *app) forwards(o sshOptions) (*forward.Forwarder, error) {
	cfg := forward.Config{
		Notify: func(s string) { fmt.Fprintf(a.Stderr, "tsh: %s\r\n", clean(s)) },
	} // the terminal may be raw
	for _, set := range []struct {
		typed []string
		parse func(string) (forward.Rule, error)
		into  *[]forward.Rule
	}{
		{o.local, forward.ParseLocal, &cfg.Local}, {o.dynamic, forward.ParseDynamic, &cfg.Local}, {o.remote, forward.ParseRemote, &cfg.Remote},
	} {
		for _, s := range set.typed {
			r, err := set.parse(s)
			if err != nil {
				return nil, err
			}
			*set.into = append(*set.into, r)
		}
	}
	if o.stdio != "" {
		if _, err := forward.ParseTarget(o.stdio); err != nil { // before anybody connects
			return nil, err
		}
	}
	if o.agent {
		if cfg.Agent = a.Getenv("SSH_AUTH_SOCK"); cfg.Agent == "" {
			return nil, fault.New(
				fault.Invalid,
				"",
				"there is no ssh-agent to forward: SSH_AUTH_SOCK is not set",
				"start one: eval $(ssh-agent); or leave -A out",
			)
		}
	}
	return forward.New(cfg), nil
}
