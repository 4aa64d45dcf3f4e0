package main

import (
	"fmt"
	"time"

	"switchyard/conf"
	"switchyard/lookup"
	"switchyard/router/admit"
	"switchyard/router/sasl"
	"switchyard/router/sasl/token"

	"go.uber.org/zap"
)

// admission translates [proxyd.limits].
func admission(c *conf.Config) admit.Options {
	l := c.Proxyd.Limits
	return admit.Options{
		Total: l.PreLogin, PerAddress: l.PreLoginAddress, Rate: l.Rate, Burst: l.Burst,
		UserSessions: l.UserSessions, AddressSessions: l.AddressSessions, Exempt: conf.Networks(l.Exempt),
	}
}

// mechanisms translates [proxyd.sasl].
func mechanisms(c *conf.Config, log *zap.Logger) (o sasl.Options, err error) {
	s := c.Proxyd.SASL
	o = sasl.Options{
		SCRAM: s.SCRAM, Secret: sasl.DeriveSecret(s.Secret.Value(), c.Cluster.ProxySecret.Value()), Iterations: s.Iterations,
		Masters: sasl.Masters{Networks: conf.Networks(s.Networks), Separator: s.Separator},
	}
	for _, master := range s.Masters {
		name, err := lookup.CleanName(master, c.Cluster.DefaultDomain)
		if err != nil {
			return o, fmt.Errorf("proxyd.sasl.masters: %w", err)
		}
		o.Masters.Accounts = append(o.Masters.Accounts, name)
	}
	switch s.Certificate {
	case "email":
		o.Certificate = sasl.ByEmail
	case "common_name":
		o.Certificate = sasl.ByCommonName
	}
	if s.Tokens.Used() {
		if o.Tokens, err = tokens(s.Tokens, log); err != nil {
			return o, fmt.Errorf("proxyd.sasl.tokens: %w", err)
		}
	}
	return o, o.Check()
}

// tokens translates [proxyd.sasl.tokens].
func tokens(t conf.Tokens, log *zap.Logger) (sasl.Tokens, error) {
	o := token.Options{
		Issuer: t.Issuer, Audience: t.Audience, Scope: t.Scope, UserClaim: t.UserClaim, Configuration: t.Configuration,
		ClientID: t.ClientID, ClientSecret: t.ClientSecret.Value(),
		Algorithms: t.Algorithms, Timeout: time.Duration(t.Timeout), Remember: time.Duration(t.Remember), Logger: log.Named("tokens"),
	}
	if t.Keys != "" {
		return token.NewKeys(t.Keys, o)
	}
	return token.NewIntrospection(t.Introspection, o)
}
