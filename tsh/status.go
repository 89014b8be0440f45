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
	Proxy      string           `json:"proxy,omitempty"` // host:port of the first of Proxies
	Proxies    []string         `json:"proxies"`
	Cluster    string           `json:"cluster"`
	Pin        string           `json:"pin"`
	User       string           `json:"user,omitempty"` // like the next only with a login
	Roles      []string         `json:"roles,omitempty"`
	Logins     []identity.Login `json:"logins,omitempty"`
	Issued     time.Time        `json:"issued_at,omitzero"`
	AuthTime   time.Time        `json:"auth_time,omitzero"` // when the provider identified the user
	Factor     string           `json:"factor,omitempty"`
	FactorTime time.Time        `json:"factor_time,omitzero"` // when the user proved the factor
	Expires    time.Time        `json:"expires,omitzero"`
	State      string           `json:"state"`   // "valid", "expired" or "logged out"
	Current    bool             `json:"current"` // what commands use without --cluster and --proxy
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
// --cluster or --proxy it returns only that one; otherwise all, the current one first. It returns a NotFound
// fault if there is no such profile, as before the first login.
func (a *app) statuses() ([]loginStatus, error) {
	home, err := a.home()
	if err != nil {
		return nil, err
	}
	first, err := a.selectProfile(home)
	if err != nil {
		return nil, err
	}
	current, _ := home.Current() // with an error, no login is marked as the current one
	list := []loginStatus{a.statusOf(first, current)}
	if a.cluster != "" || a.proxy != "" {
		return list, nil
	}
	clusters, err := home.Clusters()
	if err != nil {
		return nil, err
	}
	for _, cluster := range clusters {
		if cluster == first.Cluster {
			continue
		}
		info, err := home.ReadInfo(cluster)
		if err != nil {
			return nil, err
		}
		list = append(list, a.statusOf(info, current))
	}
	return list, nil
}

// statusOf returns the status of a profile. current is the cluster that commands use.
func (a *app) statusOf(info profile.Info, current string) loginStatus {
	proxies := []string{}
	for _, proxy := range info.Proxies {
		proxies = append(proxies, proxy.Address)
	}
	return loginStatus{
		Proxy:      info.FirstProxy().Address,
		Proxies:    proxies,
		Cluster:    info.Cluster,
		Pin:        info.Pin.String(),
		User:       info.User,
		Roles:      info.Roles,
		Logins:     info.Logins,
		Issued:     info.Issued,
		AuthTime:   info.AuthTime,
		Factor:     info.Factor,
		FactorTime: info.FactorTime,
		Expires:    info.Expires,
		State:      a.loginState(info.User, info.Expires),
		Current:    info.Cluster == current,
	}
}

// loginState is the value of "state" in JSON. user is empty after a logout.
func (a *app) loginState(user string, expires time.Time) string {
	switch {
	case user == "":
		return "logged out"
	case !a.Now().Before(expires):
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
		if err := a.writeLogin(w, login); err != nil {
			return err
		}
	}
	return nil
}

// writeLogin writes a login as names and values. After a logout it writes only where the profile belongs and
// the state "logged out".
func (a *app) writeLogin(w io.Writer, login loginStatus) error {
	proxies := strings.Join(login.Proxies, ", ")
	if login.User == "" {
		return output.WritePairs(
			w,
			[2]string{"Cluster", login.Cluster},
			[2]string{"Proxy", proxies},
			[2]string{"State", "logged out"},
		)
	}
	until := clockText(login.Expires)
	switch left := login.Expires.Sub(a.Now()); {
	case left <= 0:
		until += " (expired " + ago(-left) + " ago)"
	case left < time.Minute:
		until += " (less than a minute left)"
	default: // Duration.String writes whole minutes as 1h30m0s
		until += fmt.Sprintf(" (%s left)", strings.TrimSuffix(left.Round(time.Minute).String(), "0s"))
	}
	logins := join(login.Logins)
	if logins == "" {
		logins = "none"
	}
	factor := login.Factor
	if !login.FactorTime.IsZero() {
		factor += " at " + clockText(login.FactorTime)
	}
	return output.WritePairs(
		w,
		[2]string{"User", login.User},
		[2]string{"Cluster", login.Cluster},
		[2]string{"Proxy", proxies},
		[2]string{"Roles", join(login.Roles)},
		[2]string{"Logins", logins},
		[2]string{"Identified at", clockText(login.AuthTime)},
		[2]string{"Second factor", factor},
		[2]string{"Valid until", until},
	)
}

// clockText is a time as the user's clock shows it; "" for the zero time.
func clockText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format("2006-01-02 15:04")
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
	cmd.Flags().BoolVar(&all, "all", false, "log out at every cluster")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return a.runLogout(all) }
	return cmd
}

// runLogout logs out at the cluster that the flags name, or with all at every cluster: it deletes the private
// keys and the certificates from this machine and from ssh-agent. It keeps each profile's pin and proxies. It
// connects to no server, so nothing is revoked: servers would accept the certificates until they expire, but
// without the private keys, which existed only here, nobody can use them.
//
// Without a login there it prints that there is nothing to do and succeeds. It returns a NotFound fault if
// there is no profile at all.
func (a *app) runLogout(all bool) error {
	home, err := a.home()
	if err != nil {
		return err
	}
	var clusters []string
	if all {
		clusters, err = home.Clusters()
	} else {
		var info profile.Info
		info, err = a.selectProfile(home)
		clusters = []string{info.Cluster}
	}
	if err != nil {
		return err
	}
	for _, cluster := range clusters {
		info, err := home.ReadInfo(cluster)
		if err != nil {
			return err
		}
		if !info.LoggedIn() {
			if !all {
				fmt.Fprintf(a.Stderr, "You were not logged in at %s.\n", info.Cluster)
			}
			continue
		}
		a.removeAgentKeys(info)
		if err := home.Remove(cluster); err != nil {
			return err
		}
		fmt.Fprintf(a.Stdout, "Logged out %s at %s.\n", terminal.Clean(info.User), info.Cluster)
	}
	if len(clusters) == 0 {
		return loginNoneAnywhere.New("")
	}
	return nil
}
