// Package bootstrap answers: how is a cluster created?
//
// A bootstrap file names the cluster, its seal, its first connector and the claim that makes a user an
// administrator; it may add roles and connectors. Parse checks the file without touching anything. Create
// generates the authorities and stores the cluster in one transaction. The root of auth calls it once, on an
// empty store.
package bootstrap

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/threshold-access/threshold/auth/oidc"
	"github.com/threshold-access/threshold/auth/resources"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/config"
	"github.com/threshold-access/threshold/internal/identity"
)

// File is a bootstrap file that has been checked: one document of kind cluster, and any number of roles and
// connectors. Only Parse makes one.
type File struct {
	cluster    string // the cluster's name
	seal       string // key URI
	roles      []access.Role
	connectors []state.NamedConnector
}

// Cluster is the name of the cluster that the file creates.
func (f *File) Cluster() string { return f.cluster }

// clusterSpec is the spec of the cluster document.
type clusterSpec struct {
	Seal      string        `yaml:"seal"      config:"required"` // key URI; a missing file:// is created
	Connector connectorSpec `yaml:"connector" config:"required"`
	Admin     adminClaim    `yaml:"admin"     config:"required"`
}

// Check implements config.Checker.
func (c clusterSpec) Check(report func(path, format string, args ...any)) {
	u, err := url.Parse(c.Seal)
	if err != nil || u.Scheme == "" {
		report("seal", "is not a key URI: name a key file, for example file:///etc/threshold/seal.key")
	}
}

// connectorSpec is the first connector: the spec of a connector with its name.
type connectorSpec struct {
	Name      string `yaml:"name" config:"required"`
	oidc.Spec `yaml:",inline"`
}

// Check implements config.Checker.
func (c connectorSpec) Check(report func(path, format string, args ...any)) {
	if err := identity.CheckWord("connector", c.Name); err != nil {
		report("name", "%v", err)
	}
	c.Spec.Check(report)
}

// adminClaim is the claim of the first connector that makes a user an administrator.
type adminClaim struct {
	Claim string `yaml:"claim" config:"required"`
	Value string `yaml:"value" config:"required"`
}

// Check implements config.Checker.
func (a adminClaim) Check(report func(path, format string, args ...any)) {
	if strings.Trim(a.Value, "*?") == "" {
		report("value", "%q would make an administrator of everyone who has the claim", a.Value)
	}
}

// Parse reads a bootstrap file and reports everything that is wrong with it at once. Faults name the file as
// name.
func Parse(name string, data []byte) (*File, error) {
	docs, err := config.DecodeAll(name, data)
	faults := []error{err}
	f := &File{roles: []access.Role{resources.BuiltInAdmin()}}
	clusters := 0
	for _, doc := range docs {
		if doc.Kind == "cluster" {
			clusters++
		}
		faults = append(faults, f.add(doc, clusters))
	}
	if err == nil && clusters == 0 {
		msg := "there is no document of kind cluster: a bootstrap file has exactly one"
		faults = append(faults, config.Faults{{File: name, Line: 1, Msg: msg}})
	}
	if err := config.Join(faults...); err != nil {
		return nil, err
	}
	return f, resources.CheckSize(f.roles)
}

// add takes one document into the file; clusters is how many cluster documents there are up to this one.
func (f *File) add(doc config.Document, clusters int) error {
	var faults config.Faults
	if doc.Version != resources.Version {
		faults = append(faults, doc.Fault("version %q of a %s is not known: write version: %s",
			doc.Version, doc.Kind, resources.Version))
	}
	var err error
	switch doc.Kind {
	case "cluster":
		if clusters > 1 {
			second := doc.Fault("a second cluster document: a bootstrap file creates one cluster")
			faults = append(faults, second)
		}
		err = f.setCluster(doc)
	case "role":
		err = f.addRole(doc)
	case "connector":
		var spec oidc.Spec
		if err = doc.Spec(&spec); err == nil {
			err = f.addConnector(doc, doc.Metadata.Name, spec)
		}
	default:
		unknown := doc.Fault("kind %q is not known here; known: cluster, role, connector", doc.Kind)
		faults = append(faults, unknown)
	}
	if len(faults) == 0 {
		return err
	}
	return config.Join(faults, err)
}

// setCluster takes name, seal and first connector from the cluster document. The admin claim becomes a role
// rule of that connector.
func (f *File) setCluster(doc config.Document) error {
	var spec clusterSpec
	err := doc.Spec(&spec)
	if nerr := identity.CheckCluster(doc.Metadata.Name); nerr != nil {
		err = config.Join(err, config.Faults{doc.Fault("metadata.name: %v", nerr)})
	}
	if err != nil {
		return err
	}
	f.cluster, f.seal = doc.Metadata.Name, spec.Seal
	admin := oidc.RoleRule{
		Claim: spec.Admin.Claim,
		Value: spec.Admin.Value,
		Roles: config.Strings{state.AdminRole},
	}
	spec.Connector.Roles = append(spec.Connector.Roles, admin)
	return f.addConnector(doc, spec.Connector.Name, spec.Connector.Spec)
}

func (f *File) addRole(doc config.Document) error {
	var role access.Role
	if err := doc.Spec(&role); err != nil {
		return err
	}
	if err := identity.CheckWord("role", doc.Metadata.Name); err != nil {
		return config.Faults{doc.Fault("metadata.name: %v", err)}
	}
	role.Name = doc.Metadata.Name
	for _, r := range f.roles {
		switch {
		case r.Name != role.Name:
		case role.Name == state.AdminRole:
			return config.Faults{doc.Fault("the role %s is built in: give this one another name", role.Name)}
		default:
			return config.Faults{doc.Fault("the role %s is in this file twice", role.Name)}
		}
	}
	f.roles = append(f.roles, role)
	return nil
}

func (f *File) addConnector(doc config.Document, name string, spec oidc.Spec) error {
	if err := identity.CheckWord("connector", name); err != nil {
		return config.Faults{doc.Fault("metadata.name: %v", err)}
	}
	for _, c := range f.connectors {
		if c.Name == name {
			return config.Faults{doc.Fault("the connector %s is in this file twice", name)}
		}
	}
	rec, err := spec.Record()
	if err != nil {
		return fmt.Errorf("connector %s: %w", name, err)
	}
	f.connectors = append(f.connectors, state.NamedConnector{Name: name, Connector: rec})
	return nil
}
