package tsh

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/tsh/output"
	"github.com/threshold-access/threshold/tsh/profile"
	"github.com/threshold-access/threshold/tsh/terminal"
)

// loginStatus is a login as --format=json shows it.
type loginStatus struct {
	Proxy   string           `json:"proxy"` // host:port
	Cluster string           `json:"cluster"`
	Pin     string           `json:"pin"`
	User    string           `json:"user,omitempty"` // like the next three only with a login
	Roles   []string         `json:"roles,omitempty"`
	Logins  []identity.Login `json:"logins,omitempty"`
	Expires time.Time        `json:"expires,omitzero"`
	State   string           `json:"state"`   // "valid", "expired" or "logged out"
	Current bool             `json:"current"` // what commands use without --proxy
}

// statusCmd is "tsh status". The exit code tells scripts whether the current login is valid.
func (a *app) statusCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "status",
		Short: "Show who you are logged in as, where, and until when",
		Long: "Show who you are logged in as, where, and until when. This reads the files on this machine " +
			"and connects to nothing.\nThe exit code is 1 if no login is valid.",
		GroupID: everyday,
		Args:    noArgs("leave %s out"),
	}
	f := formatFlag(c)
	c.RunE = func(*cobra.Command, []string) error {
		list, err := a.statuses()
		if err != nil {
			return err
		}
		if err := a.write(*f, list, func(w io.Writer) error { return a.writeStatuses(w, list) }); err != nil {
			return err
		}
		_, err = a.currentLogin()
		return err
	}
	return c
}

// statuses lists the logins: only the one of --proxy, or all with the current one first.
func (a *app) statuses() ([]loginStatus, error) {
	h, err := a.home()
	if err != nil {
		return nil, err
	}
	current, err := a.proxyAddress()
	if err != nil {
		return nil, err
	}
	proxies := []string{current}
	if a.proxy == "" {
		all, err := h.Proxies()
		if err != nil {
			return nil, err
		}
		for _, p := range all {
			if p != current {
				proxies = append(proxies, p)
			}
		}
	}
	list := []loginStatus{}
	for _, addr := range proxies {
		i, err := h.ReadInfo(addr)
		if err != nil {
			return nil, err
		}
		list = append(list, loginStatus{
			Proxy:   i.Proxy,
			Cluster: i.Cluster,
			Pin:     i.Pin,
			User:    i.User,
			Roles:   i.Roles,
			Logins:  i.Logins,
			Expires: i.Expires,
			State:   a.loginState(i),
			Current: addr == current,
		})
	}
	return list, nil
}

// loginState is the value of "state" in JSON.
func (a *app) loginState(i profile.Info) string {
	switch {
	case !i.LoggedIn():
		return "logged out"
	case !a.Now().Before(i.Expires):
		return "expired"
	}
	return "valid"
}

// writeStatuses writes the logins with an empty line between them.
func (a *app) writeStatuses(w io.Writer, list []loginStatus) error {
	for n, s := range list {
		if n > 0 {
			if _, err := fmt.Fprintln(w); err != nil {
				return err
			}
		}
		err := a.writeLogin(profile.Info{
			Proxy:   s.Proxy,
			Cluster: s.Cluster,
			User:    s.User,
			Roles:   s.Roles,
			Logins:  s.Logins,
			Expires: s.Expires,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// writeLogin writes a login as text.
func (a *app) writeLogin(i profile.Info) error {
	if !i.LoggedIn() {
		return output.WritePairs(
			a.Stdout,
			[2]string{"Proxy", i.Proxy},
			[2]string{"Cluster", i.Cluster},
			[2]string{"State", "logged out"},
		)
	}
	until := i.Expires.Local().Format("2006-01-02 15:04")
	if left := i.Expires.Sub(a.Now()); left > 0 {
		until += fmt.Sprintf(" (%s left)", strings.TrimSuffix(left.Round(time.Minute).String(), "0s"))
	} else {
		until += " (expired " + ago(-left) + " ago)"
	}
	logins := join(i.Logins)
	if logins == "" {
		logins = "none"
	}
	return output.WritePairs(
		a.Stdout,
		[2]string{"User", i.User},
		[2]string{"Cluster", i.Cluster},
		[2]string{"Proxy", i.Proxy},
		[2]string{"Roles", join(i.Roles)},
		[2]string{"Logins", logins},
		[2]string{"Valid until", until},
	)
}

// logoutCmd is "tsh logout".
func (a *app) logoutCmd() *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use:   "logout",
		Short: "Remove your keys and certificates from this machine and from ssh-agent",
		Long: "Remove your keys and certificates from this machine and from ssh-agent. " +
			"The cluster's pin stays, so that the next login goes to the same cluster.",
		GroupID: everyday,
		Args:    noArgs("leave %s out"),
	}
	c.Flags().BoolVar(&all, "all", false, "log out at every proxy")
	c.RunE = func(c *cobra.Command, _ []string) error { return a.runLogout(all) }
	return c
}

// runLogout logs out at the current proxy, or at every proxy. It works without a network: the certificates
// stay valid on the server's side until they expire, but their keys are gone.
func (a *app) runLogout(all bool) error {
	h, err := a.home()
	if err != nil {
		return err
	}
	var proxies []string
	if all {
		proxies, err = h.Proxies()
	} else {
		proxies = make([]string, 1)
		proxies[0], err = a.proxyAddress()
	}
	if err != nil {
		return err
	}
	for _, addr := range proxies {
		i, err := h.ReadInfo(addr)
		if err != nil {
			return err
		}
		if !i.LoggedIn() {
			if !all {
				fmt.Fprintf(a.Stderr, "You were not logged in at %s.\n", i.Proxy)
			}
			continue
		}
		a.removeAgentKeys(i)
		if err := h.Remove(addr); err != nil {
			return err
		}
		fmt.Fprintf(a.Stdout, "Logged out %s at %s.\n", terminal.Clean(i.User), i.Proxy)
	}
	if len(proxies) == 0 {
		return fault.New(fault.NotFound, "", "not logged in anywhere", "run: tsh login --proxy HOST")
	}
	return nil
}
