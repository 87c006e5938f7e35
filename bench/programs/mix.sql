-- A small shop: bulk insert, indexes, joins, groups, updates, text, in a temporary database.
create table item (id integer primary key, name text, price integer);
create table sale (id integer primary key, item integer, day integer, number integer);
begin;
with recursive n(i) as (select 1 union all select i + 1 from n where i < 2000)
    insert into item select i, 'item ' || (i * 7919 % 2003), i * 31 % 997 from n;
with recursive n(i) as (select 1 union all select i + 1 from n where i < 60000)
    insert into sale select i, i * 7919 % 2000 + 1, i * 104729 % 365, i % 9 + 1 from n;
commit;
create index sale_item on sale (item, day);
create index item_name on item (name);
select count(*), sum(price * number) from sale join item on item.id = sale.item;
select day, sum(number) as many from sale group by day order by many desc, day limit 5;
select name, sum(price * number) from item join sale on sale.item = item.id
    where name like '%99%' group by name order by 2 desc, 1 limit 5;
update sale set number = number + 1 where item in (select id from item where price % 5 = 0);
delete from sale where day between 100 and 110;
select count(*), sum(number), max(length(name || day)) from sale join item on item.id = sale.item;
pragma integrity_check;
