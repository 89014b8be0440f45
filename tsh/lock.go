package tsh

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/tsh/output"
	"github.com/threshold-access/threshold/tsh/terminal"
)

// lockSpec is the spec of a lock resource.
type lockSpec struct {
	Match       lockMatch       `json:"match"`
	WithoutRole string          `json:"without_role,omitempty"` // empty: the lock denies
	For         access.Duration `json:"for,omitzero"`           // zero: until the lock is removed
	Message     string          `json:"message,omitempty"`
	Force       bool            `json:"force,omitempty"`
}

// lockMatch has the facts of a lock, as access.Facts, with names where the auth service puts ids.
type lockMatch struct {
	User         string    `json:"user,omitempty"`
	Connector    string    `json:"connector,omitempty"`
	LoginID      string    `json:"login_id,omitempty"`
	Serial       string    `json:"serial,omitempty"`
	Role         string    `json:"role,omitempty"`
	Account      string    `json:"account,omitempty"`
	Machine      string    `json:"machine,omitempty"`
	LoginProxy   string    `json:"login_proxy,omitempty"`
	ViaProxy     string    `json:"via_proxy,omitempty"`
	IssuedBefore time.Time `json:"issued_before,omitzero"`
	Since        time.Time `json:"since,omitzero"`
}

// lockKind is a fact that "tsh lock KIND NAME" locks.
type lockKind struct {
	word  string
	field func(*lockMatch) *string
	flag  string          // the flag for the same fact; empty: there is none
	names access.Resource // the resources that have such names; empty: none has
}

const proxyKind = "proxy" // locks more than the one fact: see lockSpecs

// lockKinds has every kind, in the order of help texts.
var lockKinds = []lockKind{
	{"user", func(m *lockMatch) *string { return &m.User }, "", access.Users},
	{"login", func(m *lockMatch) *string { return &m.LoginID }, "", ""},
	{"account", func(m *lockMatch) *string { return &m.Account }, "account", ""},
	{"node", func(m *lockMatch) *string { return &m.Machine }, "node", access.Nodes},
	{proxyKind, func(m *lockMatch) *string { return &m.Machine }, "", access.Proxies},
	{"role", func(m *lockMatch) *string { return &m.Role }, "role", access.Roles},
	{"connector", func(m *lockMatch) *string { return &m.Connector }, "connector", access.Connectors},
	{"serial", func(m *lockMatch) *string { return &m.Serial }, "", ""},
}

// lockKindWords has the words for the kinds.
func lockKindWords() []string {
	var words []string
	for _, kind := range lockKinds {
		words = append(words, kind.word)
	}
	return words
}

// lockKindOf returns the kind with the word, in any case. ok is false if there is none.
func lockKindOf(word string) (kind lockKind, ok bool) {
	i := slices.IndexFunc(lockKinds, func(k lockKind) bool { return strings.EqualFold(k.word, word) })
	if i < 0 {
		return lockKind{}, false
	}
	return lockKinds[i], true
}

// lockFlags are the flags of "tsh lock".
type lockFlags struct {
	spec                lockSpec
	duration            time.Duration
	issuedBefore, since string // as typed
	dryRun              bool
}

// lockCmd is "tsh lock". A lock is a resource: "tsh lock" applies one and "tsh lock rm" removes some, and
// both wait until the machines have confirmed the change. "tsh lock ls" is "tsh get locks".
func (a *app) lockCmd() *cobra.Command {
	var f lockFlags
	cmd := &cobra.Command{
		Use:   "lock KIND NAME",
		Short: "Take access away at once, also from sessions that are open",
		Long: "Take access away at once: nothing new is opened, and what is open ends.\n" +
			"KIND and NAME say from what:\n\n" +
			"  user NAME       everything that the user does, and new logins\n" +
			"  login ID        the certificates of one login; its id is in the audit log\n" +
			"  account NAME    everything that is done as this account of the nodes\n" +
			"  node NAME       the machine: nobody reaches it\n" +
			"  proxy NAME      the machine: nobody is connected through it, and it serves no login;\n" +
			"                  with --since also all certificates of logins that it has served since\n" +
			"  role NAME       everybody who has the role\n" +
			"  connector NAME  everybody who logged in by this identity provider\n" +
			"  serial NUMBER   one certificate\n\n" +
			"Further flags narrow the lock: it takes access away only where all that they say is true.\n" +
			"A TIME is as 2026-03-01T12:00:00Z, or a duration back from now, as 2h, or now.\n\n" +
			"The lock holds until --for has passed, else until it is removed: tsh lock rm ID.\n" +
			"With --issued-before it also ends by itself, a day after that time: no certificate that it\n" +
			"matches is left then.\n" +
			"What is removed is locked by itself: tsh rm user, node, proxy and connector, and a role that is\n" +
			"taken from a user, need no lock of yours.\n\n" +
			"The command waits until all machines have confirmed the lock, and names those that are silent.\n" +
			"The exit status is 0 if all have confirmed, 3 if some are silent, and 1 after an error.",
		GroupID: admin,
		Example: `  tsh lock user alice@example.com --issued-before now --message "laptop stolen"
  tsh lock user bob@example.com --message "left the company"
  tsh lock proxy edge-1 --since 2026-03-01T12:00:00Z
  tsh lock role ops --node db-1 --for 2h --message "maintenance"
  tsh lock user carol@example.com --without-role ops
  tsh lock ls
  tsh lock rm 3f9c2a7e51b0`,
		Args:              checkLockArgs,
		ValidArgsFunction: a.completeLock,
	}
	format := formatFlag(cmd)
	wait := waitFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		kind, name, err := parseLock(args)
		if err != nil {
			return err
		}
		if cmd.Flags().Changed("for") && f.duration <= 0 {
			return lockForInvalid.New("", fault.Args{"for": f.duration})
		}
		specs, err := a.lockSpecs(cmd.Context(), kind, name, f)
		if err != nil {
			return err
		}
		return a.runLock(cmd, specs, f.dryRun, *wait, *format)
	}
	flags := cmd.Flags()
	flags.DurationVar(&f.duration, "for", 0,
		"how long the lock holds, as 90s or 2h; default: until it is removed")
	flags.StringVar(&f.spec.Message, "message", "", "`TEXT` that says why to those whom the lock stops")
	flags.BoolVar(&f.spec.Force, "force", false,
		"lock even yourself, the last administrator, or a name that nobody has yet")
	flags.StringVar(&f.spec.WithoutRole, "without-role", "",
		"deny only what this `ROLE` alone allows: the user's other roles go on")
	match := &f.spec.Match
	flags.StringVar(&match.Machine, "node", "", "only on this node: its `NAME` or id")
	flags.StringVar(&match.Account, "account", "", "only as this account: its `NAME`")
	flags.StringVar(&match.Role, "role", "", "only users who have this role: its `NAME`")
	flags.StringVar(&match.Connector, "connector", "",
		"only users who logged in by this identity provider: its `NAME`")
	flags.StringVar(&match.ViaProxy, "via-proxy", "", "only connections through this proxy: its `NAME` or id")
	flags.StringVar(&f.issuedBefore, "issued-before", "",
		"only certificates that were issued before this `TIME`; with now, a new login is free")
	flags.StringVar(&f.since, "since", "", "only certificates that were issued since this `TIME`")
	flags.BoolVar(&f.dryRun, "dry-run", false, "show the document of the lock, and lock nothing")
	for flag, names := range map[string]access.Resource{
		"node": access.Nodes, "role": access.Roles, "without-role": access.Roles,
		"connector": access.Connectors, "via-proxy": access.Proxies,
	} {
		_ = cmd.RegisterFlagCompletionFunc(flag, a.completeNames(names)) // the flag exists
	}
	cmd.AddCommand(a.lockLSCmd(), a.lockRmCmd())
	return cmd
}

// lockLSCmd is "tsh lock ls".
func (a *app) lockLSCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "ls",
		Short:   "List the locks",
		Example: "  tsh lock ls\n  tsh lock ls --format=json",
		Args:    noArgs("to show one lock: tsh get lock %s"),
	}
	format := formatFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		list, err := a.fetchResources(cmd.Context(), access.ClusterLocks, "")
		if err != nil {
			return err
		}
		return a.showResources(*format, access.ClusterLocks, "", list)
	}
	return cmd
}

// lockRmCmd is "tsh lock rm". It removes the locks in order and stops at the first that it cannot remove.
func (a *app) lockRmCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "rm ID…",
		Short:             "Remove locks",
		Example:           "  tsh lock rm 3f9c2a7e51b0",
		Args:              argCount(1, anyNumber, "the ids of locks, which tsh lock ls shows"),
		ValidArgsFunction: a.completeNames(access.ClusterLocks),
	}
	format := formatFlag(cmd)
	wait := waitFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.removeLocks(cmd, args, *wait, *format)
	}
	return cmd
}

// checkLockArgs checks the arguments of "tsh lock" before anything else is looked at.
func checkLockArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 || len(args) > 2 {
		what := "a kind and a name; the kinds are " + strings.Join(lockKindWords(), ", ")
		return usageError(cmd, fmt.Errorf("%s needs %s", cmd.CommandPath(), what))
	}
	_, _, err := parseLock(args)
	return err
}

// parseLock reads "user NAME" or "user/NAME". It returns an Invalid fault for an unknown kind and for a
// missing name.
func parseLock(args []string) (kind lockKind, name string, err error) {
	word, name, err := splitName(args)
	if err != nil {
		return lockKind{}, "", err
	}
	kind, ok := lockKindOf(word)
	if !ok {
		kinds := strings.Join(lockKindWords(), ", ")
		return lockKind{}, "", lockKindUnknown.New("", fault.Args{"kind": word, "kinds": kinds})
	}
	if name == "" {
		hint := "the audit log has them: tsh get events"
		if kind.names != "" {
			hint = "see: tsh get " + string(kind.names)
		}
		return lockKind{}, "", lockNameMissing.New("", fault.Args{"kind": kind.word, "hint": hint})
	}
	return kind, name, nil
}

// lockSpecs returns the locks that the command asks for. There are two for a proxy with --since: one of the
// machine, and one of the certificates that were issued since by logins that it served. lockSpecs returns an
// Invalid fault for flags that contradict each other and for a time that is malformed.
func (a *app) lockSpecs(ctx context.Context, kind lockKind, name string, f lockFlags) ([]lockSpec, error) {
	spec := f.spec
	spec.For = access.Duration(f.duration)
	isNarrowed := spec.Match != lockMatch{} || f.issuedBefore != "" || spec.WithoutRole != ""
	if kind.word == proxyKind && isNarrowed {
		return nil, lockProxyNarrowed.New("", fault.Args{"proxy": name})
	}
	field := kind.field(&spec.Match)
	if *field != "" {
		first := kind.word + " " + name
		return nil, flagsConflict.New("", fault.Args{"first": first, "second": "--" + kind.flag})
	}
	*field = name
	times, err := a.parseTimes(ctx, f.issuedBefore, f.since)
	if err != nil {
		return nil, err
	}
	issuedBefore, since := times[0], times[1]
	if kind.word == proxyKind && !since.IsZero() {
		logins := spec
		logins.Match = lockMatch{LoginProxy: name, Since: since}
		return []lockSpec{spec, logins}, nil
	}
	spec.Match.IssuedBefore, spec.Match.Since = issuedBefore, since
	return []lockSpec{spec}, nil
}

// parseTimes reads the values of flags for times: RFC 3339, a duration back from now, or "now"; "" is the
// zero time. Now is by the clock of the auth service, which also says when certificates are issued: the clock
// of this machine may be wrong. parseTimes asks for it only if it is needed. It returns an Invalid fault for
// other text.
func (a *app) parseTimes(ctx context.Context, texts ...string) ([]time.Time, error) {
	times := make([]time.Time, len(texts))
	var now time.Time
	for i, text := range texts {
		if text == "" {
			continue
		}
		absolute, err := time.Parse(time.RFC3339, text)
		if err == nil {
			times[i] = absolute.UTC()
			continue
		}
		back, err := time.ParseDuration(text)
		if text != "now" && (err != nil || back < 0) {
			return nil, lockTimeInvalid.New("", fault.Args{"value": text})
		}
		if now.IsZero() {
			if now, err = a.clusterTime(ctx); err != nil {
				return nil, err
			}
		}
		times[i] = now.Add(-back)
	}
	return times, nil
}

// clusterTime returns the time by the clock of the auth service, in UTC.
func (a *app) clusterTime(ctx context.Context) (time.Time, error) {
	prof, err := a.currentLogin()
	if err != nil {
		return time.Time{}, err
	}
	client := a.auth(prof)
	defer client.Close()
	resp, err := authrpc.Call(ctx, client, authrpc.WhoAmI, authrpc.WhoAmIRequest{})
	return resp.Time.UTC(), err
}

// lockDocuments returns the documents of locks. They have no names: the auth service gives ids.
func lockDocuments(specs []lockSpec) ([]authrpc.Resource, error) {
	var docs []authrpc.Resource
	for _, spec := range specs {
		encoded, err := json.Marshal(spec)
		if err != nil {
			return nil, err
		}
		doc := authrpc.Resource{Kind: access.ClusterLocks.Singular(), Version: "v1", Spec: encoded}
		docs = append(docs, doc)
	}
	return docs, nil
}

// runLock makes the locks, shows them, and waits until the machines have confirmed them. With dryRun it only
// shows their documents.
func (a *app) runLock(
	cmd *cobra.Command, specs []lockSpec, dryRun bool, wait time.Duration, format output.Format,
) error {
	docs, err := lockDocuments(specs)
	switch {
	case err != nil:
		return err
	case dryRun && format == output.JSON:
		return a.write(format, docs, nil /* no text */)
	case dryRun:
		return a.writeDocuments(docs)
	}
	prof, err := a.currentLogin()
	if err != nil {
		return err
	}
	client := a.auth(prof)
	defer client.Close()
	var change lockChange
	for _, doc := range docs {
		req := authrpc.ApplyResourceRequest{Resource: doc}
		resp, err := authrpc.Call(cmd.Context(), client, authrpc.ApplyResource, req)
		if err != nil {
			a.reportStopped(len(change.Locks), "made")
			return err
		}
		change.Locks = append(change.Locks, resp.Resource)
		if format == output.Text {
			a.reportLock(resp)
		}
	}
	return a.confirm(cmd, client, change, wait, format)
}

// reportLock prints what a lock does, and until when.
func (a *app) reportLock(resp authrpc.ApplyResourceResponse) {
	result := "changed"
	if resp.Created {
		result = "created"
	}
	lock := decodeLock(resp.Resource)
	effect := "denied"
	if lock.withoutRole != "" {
		effect = "without role " + lock.withoutRole
	}
	until := "it is removed"
	if !lock.end.IsZero() {
		until = timeText(lock.end)
	}
	id := resp.Resource.Metadata.Name
	text := fmt.Sprintf("lock %s %s until %s; %s: %s", id, result, until, effect, lock.hits)
	fmt.Fprintln(a.Stdout, terminal.Clean(text))
	if resp.Note != "" {
		fmt.Fprintln(a.Stderr, terminal.Clean(resp.Note))
	}
}

// reportStopped prints, before an error, how many of several changes are done.
func (a *app) reportStopped(done int, what string) {
	if done > 0 {
		fmt.Fprintf(a.Stderr, "Stopped; the locks before it are %s: %d.\n", what, done)
	}
}

// removeLocks removes the locks with the ids, in order, and waits until the machines have confirmed that. It
// stops at the first that cannot be removed.
func (a *app) removeLocks(cmd *cobra.Command, ids []string, wait time.Duration, format output.Format) error {
	prof, err := a.currentLogin()
	if err != nil {
		return err
	}
	client := a.auth(prof)
	defer client.Close()
	var change lockChange
	for _, id := range ids {
		req := authrpc.RemoveResourceRequest{Kind: access.ClusterLocks, Name: id}
		if _, err := authrpc.Call(cmd.Context(), client, authrpc.RemoveResource, req); err != nil {
			a.reportStopped(len(change.Removed), "removed")
			return err
		}
		change.Removed = append(change.Removed, id)
		if format == output.Text {
			fmt.Fprintf(a.Stdout, "lock %s removed\n", terminal.Clean(id))
		}
	}
	return a.confirm(cmd, client, change, wait, format)
}

// lock is what a table shows of a lock.
type lock struct {
	withoutRole, message, hits, author string
	end                                time.Time
	ended                              bool
}

// decodeLock decodes the document of a lock.
func decodeLock(resource authrpc.Resource) lock {
	var spec struct {
		Without_Role, Message string
		End                   time.Time
	}
	var status struct {
		Author, Hits string
		Ended        bool
	}
	decodeKnown(resource.Spec, &spec)
	decodeKnown(resource.Status, &status)
	return lock{spec.Without_Role, spec.Message, status.Hits, status.Author, spec.End, status.Ended}
}
