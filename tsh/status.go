package tsh

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

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

// statusCmd is "tsh status". It prints every login, and then fails if the current one is missing or expired,
// so that scripts can test for a valid login by the exit code.
func (a *app) statusCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show who you are logged in as, where, and until when",
		Long: "Show who you are logged in as, where, and until when. This reads the files on this machine " +
			"and connects to nothing.\nThe exit code is 1 if no login is valid.",
		GroupID: everyday,
		Args:    noArgs("leave %s out"),
	}
	format := formatFlag(cmd)
	cmd.RunE = func(*cobra.Command, []string) error {
		list, err := a.statuses()
		if err != nil {
			return err
		}
		writeText := func(w io.Writer) error { return a.writeStatuses(w, list) }
		if err := a.write(*format, list, writeText); err != nil {
			return err
		}
		_, err = a.currentLogin()
		return err
	}
	return cmd
}

// statuses returns the state of each profile on this machine, also of expired logins and after a logout. With
// --proxy it returns only the profile of that proxy; otherwise all, the current one first. It returns a
// NotFound fault if there is no such profile, as before the first login.
func (a *app) statuses() ([]loginStatus, error) {
	home, err := a.home()
	if err != nil {
		return nil, err
	}
	current, err := a.proxyAddress()
	if err != nil {
		return nil, err
	}
	proxies := []string{current}
	if a.proxy == "" {
		all, err := home.Proxies()
		if err != nil {
			return nil, err
		}
		for _, addr := range all {
			if addr != current {
				proxies = append(proxies, addr)
			}
		}
	}
	list := []loginStatus{}
	for _, addr := range proxies {
		info, err := home.ReadInfo(addr)
		if err != nil {
			return nil, err
		}
		list = append(list, loginStatus{
			Proxy:   info.Proxy,
			Cluster: info.Cluster,
			Pin:     info.Pin,
			User:    info.User,
			Roles:   info.Roles,
			Logins:  info.Logins,
			Expires: info.Expires,
			State:   a.loginState(info),
			Current: addr == current,
		})
	}
	return list, nil
}

// loginState is the value of "state" in JSON.
func (a *app) loginState(info profile.Info) string {
	switch {
	case !info.LoggedIn():
		return "logged out"
	case !a.Now().Before(info.Expires):
		return "expired"
	}
	return "valid"
}

// writeStatuses writes the logins to w as text, with an empty line between two of them.
func (a *app) writeStatuses(w io.Writer, list []loginStatus) error {
	for i, login := range list {
		if i > 0 {
			if _, err := fmt.Fprintln(w); err != nil {
				return err
			}
		}
		err := a.writeLogin(w, profile.Info{
			Proxy:   login.Proxy,
			Cluster: login.Cluster,
			User:    login.User,
			Roles:   login.Roles,
			Logins:  login.Logins,
			Expires: login.Expires,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// writeLogin writes a login as names and values. After a logout it writes only where the profile belongs and
// the state "logged out".
func (a *app) writeLogin(w io.Writer, info profile.Info) error {
	if !info.LoggedIn() {
		return output.WritePairs(
			w,
			[2]string{"Proxy", info.Proxy},
			[2]string{"Cluster", info.Cluster},
			[2]string{"State", "logged out"},
		)
	}
	until := info.Expires.Local().Format("2006-01-02 15:04")
	switch left := info.Expires.Sub(a.Now()); {
	case left <= 0:
		until += " (expired " + ago(-left) + " ago)"
	case left < time.Minute:
		until += " (less than a minute left)"
	default: // Duration.String writes whole minutes as 1h30m0s
		until += fmt.Sprintf(" (%s left)", strings.TrimSuffix(left.Round(time.Minute).String(), "0s"))
	}
	logins := join(info.Logins)
	if logins == "" {
		logins = "none"
	}
	return output.WritePairs(
		w,
		[2]string{"User", info.User},
		[2]string{"Cluster", info.Cluster},
		[2]string{"Proxy", info.Proxy},
		[2]string{"Roles", join(info.Roles)},
		[2]string{"Logins", logins},
		[2]string{"Valid until", until},
	)
}

// logoutCmd is "tsh logout".
func (a *app) logoutCmd() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "logout",
		Short: "Remove your keys and certificates from this machine and from ssh-agent",
		Long: "Remove your keys and certificates from this machine and from ssh-agent. " +
			"The cluster's pin stays, so that the next login goes to the same cluster.",
		GroupID: everyday,
		Args:    noArgs("leave %s out"),
	}
	cmd.Flags().BoolVar(&all, "all", false, "log out at every proxy")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return a.runLogout(all) }
	return cmd
}

// runLogout logs out at the current proxy, or with all at every proxy: it deletes the private keys and the
// certificates from this machine and from ssh-agent. It keeps each profile's pin. It connects to no server,
// so nothing is revoked: servers would accept the certificates until they expire, but without the private
// keys, which existed only here, nobody can use them.
//
// Without a login at the current proxy it prints that there is nothing to do and succeeds. It returns a
// NotFound fault if there is no profile at all.
func (a *app) runLogout(all bool) error {
	home, err := a.home()
	if err != nil {
		return err
	}
	var proxies []string
	if all {
		proxies, err = home.Proxies()
	} else {
		proxies = make([]string, 1)
		proxies[0], err = a.proxyAddress()
	}
	if err != nil {
		return err
	}
	for _, addr := range proxies {
		info, err := home.ReadInfo(addr)
		if err != nil {
			return err
		}
		if !info.LoggedIn() {
			if !all {
				fmt.Fprintf(a.Stderr, "You were not logged in at %s.\n", info.Proxy)
			}
			continue
		}
		a.removeAgentKeys(info)
		if err := home.Remove(addr); err != nil {
			return err
		}
		fmt.Fprintf(a.Stdout, "Logged out %s at %s.\n", terminal.Clean(info.User), info.Proxy)
	}
	if len(proxies) == 0 {
		return loginNoneAnywhere.New("")
	}
	return nil
}
