package ldap

import (
	"fmt"
	"strings"

	"switchyard/lookup"
)

// Preset fills in those of o's fields about filters and attributes that are
// empty, for directories of a known shape. The names:
//
//   - switchyard: the project's own schema (deploy/ldap), which is also what no
//     preset means.
//   - laser: inetMailUser, as iPlanet's and Sun's messaging servers and the
//     draft of the laser schema have it. Backends bear the names in mailHost.
//     A forwarding address counts only with mailDeliveryOption: forward.
//   - zimbra: zimbraAccount. Backends bear the names in zimbraMailHost.
//   - ad: users of Active Directory by their mail attribute, and ad-upn: by
//     userPrincipalName. Neither has an attribute for the home; the presets take
//     msDS-cloudExtensionAttribute1, which every forest since 2012 has and
//     nobody fills. The base must be an organisational unit or a container: at
//     the root of a domain the server answers each search with referrals to
//     other partitions beside the entry, so that nothing is found for sure and
//     every name is unavailable. Disabled accounts (ACCOUNTDISABLE in
//     userAccountControl) are suspended.
//
// Whatever the preset, o's own values win.
func Preset(name string, o Options) (Options, error) {
	p, ok := shapes()[name]
	if !ok {
		return Options{}, fmt.Errorf("LDAP preset %q is none of %s", name, strings.Join(Presets(), ", "))
	}
	for _, field := range []struct {
		mine  *string
		shape string
	}{
		{&o.Filter, p.Filter}, {&o.Name, p.Name}, {&o.Home, p.Home}, {&o.Generation, p.Generation}, {&o.Status, p.Status},
		{&o.Quota, p.Quota}, {&o.Forward, p.Forward}, {&o.Alias, p.Alias}, {&o.ForwardOnly, p.ForwardOnly},
		{&o.PasswordTime, p.PasswordTime},
	} {
		if *field.mine == "" {
			*field.mine = field.shape
		}
	}
	// These belong to their attributes: with another one they mean nothing.
	if o.Status == p.Status && o.StatusWords == nil && o.DisabledBits == 0 {
		o.StatusWords, o.DisabledBits = p.StatusWords, p.DisabledBits
	}
	if o.Quota == p.Quota && o.NoQuota == nil {
		o.NoQuota = p.NoQuota
	}
	if o.Forward == p.Forward && o.DeliveryOption == "" {
		o.DeliveryOption = p.DeliveryOption
	}
	return o, nil
}

// Presets returns the names of the presets, sorted.
func Presets() []string { return []string{"ad", "ad-upn", "laser", "switchyard", "zimbra"} }

// shapes returns the presets.
func shapes() map[string]Options {
	const (
		users    = "(&(sAMAccountType=805306368)" // SAM_NORMAL_USER_ACCOUNT: people, no computers
		disabled = 2                              // ACCOUNTDISABLE
	)
	ad := Options{
		Filter: users + "(mail={name}))", Name: "mail", Home: "msDS-cloudExtensionAttribute1",
		Generation: none, Status: "userAccountControl", Quota: none, Forward: none, Alias: none, ForwardOnly: none,
		DisabledBits: disabled, PasswordTime: "pwdLastSet",
	}
	upn := ad
	upn.Filter, upn.Name = users+"(userPrincipalName={name}))", "userPrincipalName"
	return map[string]Options{
		"switchyard": {},
		"ad":         ad,
		"ad-upn":     upn,
		"laser": {
			Filter: "(&(objectClass=inetMailUser)(mail={name}))", Name: "mail", Home: "mailHost", Generation: none,
			Status: "inetUserStatus mailUserStatus", Quota: "mailQuota", Forward: "mailForwardingAddress",
			Alias: none, ForwardOnly: none, DeliveryOption: "mailDeliveryOption",
			NoQuota: []string{"-1", "-2"}, // no limit; the server's default
			StatusWords: map[string]lookup.Status{
				"active": lookup.StatusOK, "overquota": lookup.StatusOK, // the store refuses by itself
				"inactive": lookup.StatusSuspended, "hold": lookup.StatusSuspended, "disabled": lookup.StatusBanned,
				"deleted": lookup.StatusClosed, "removed": lookup.StatusClosed, "unused": lookup.StatusClosed,
			},
		},
		"zimbra": {
			Filter: "(&(objectClass=zimbraAccount)(zimbraMailDeliveryAddress={name}))", Name: "zimbraMailDeliveryAddress",
			Home: "zimbraMailHost", Generation: none, Status: "zimbraAccountStatus", Quota: "zimbraMailQuota",
			Forward: "zimbraPrefMailForwardingAddress zimbraMailForwardingAddress", Alias: none,
			ForwardOnly: "zimbraPrefMailLocalDeliveryDisabled", PasswordTime: "zimbraPasswordModifiedTime",
			StatusWords: map[string]lookup.Status{
				"active": lookup.StatusOK, "maintenance": lookup.StatusSuspended, "locked": lookup.StatusSuspended,
				"lockout": lookup.StatusSuspended, "pending": lookup.StatusSuspended, "closed": lookup.StatusClosed,
			},
		},
	}
}
